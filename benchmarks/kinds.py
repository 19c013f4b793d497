"""Kinds of task end to end: a small network trained to the end, searched, judged on test, handed over and run.

    python benchmarks/kinds.py [--minutes 5] [NAME ...]

Data are made of the part of Fashion-MNIST that is kept in this repository, or of seeded sines. Latencies are predicted,
for a Raspberry Pi 4. One record per task goes to results/records/kinds/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autocompress import Budget, DeviceProfile, SearchSpace, Task, search
from autocompress.packaging.package import export_point

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import datasets  # noqa: E402

RECORDS = ROOT / "results" / "records" / "kinds"
DEVICE = "raspberry-pi-4"
Splits = dict[str, tuple[Tensor, Tensor]]


def images() -> Splits:
    """Grey values from 0 to 1, (N, 1, 28, 28), and classes."""
    parts = datasets.fashion_mnist_12k()
    return {
        k: (torch.from_numpy(p.x).permute(0, 3, 1, 2) / 255, torch.from_numpy(p.y).long()) for k, p in parts.items()
    }


def block(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


# -- super-resolution: twice the size, with sub-pixel convolution (Shi et al., arXiv 1609.05158)


def super_resolution() -> tuple[nn.Module, Splits, Callable[..., Task], int]:
    data = {name: (nn.functional.avg_pool2d(x, 2), x) for name, (x, _) in images().items()}
    net = nn.Sequential(
        *(nn.Conv2d(1, 48, 5, padding=2), nn.ReLU(), nn.Conv2d(48, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 3, padding=1), nn.PixelShuffle(2)),
    )
    return net, data, Task.image_to_image, 8


# -- denoising: a U-Net that finds the noise


class UNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.inner = block(1, width), nn.Sequential(block(width, 2 * width, 2), block(2 * width, 2 * width))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.last = nn.Sequential(block(2 * width, width), nn.Conv2d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept = self.first(x)
        return x - self.last(torch.cat([self.up(self.inner(kept)), kept], 1))


def denoising() -> tuple[nn.Module, Splits, Callable[..., Task], int]:
    generator = torch.Generator().manual_seed(0)
    noisy = {k: (x + 0.15 * torch.randn(x.shape, generator=generator), x) for k, (x, _) in images().items()}
    return UNet(), noisy, Task.image_to_image, 6


# -- retrieval: items of one class are near


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1)


def retrieval() -> tuple[nn.Module, Splits, Callable[..., Task], int]:
    layers = [block(1, 24, 2), block(24, 48, 2), block(48, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 32), Normalised()), images(), Task.embedding, 8


# -- forecasting: mixtures of three sines with noise, 48 steps to 12


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(1, 48, batch_first=True), nn.Sequential(nn.Linear(48, 64), nn.ReLU())
        self.last = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.memory(x)[0][:, -1]))


def forecasting() -> tuple[nn.Module, Splits, Callable[..., Task], int]:
    generator = torch.Generator().manual_seed(0)
    data = {}
    for name, n in (("train", 6000), ("val", 1500), ("test", 1500)):
        periods, phases, sizes = (torch.rand(n, 3, 1, generator=generator) for _ in range(3))
        steps = torch.arange(60.0)
        waves = (sizes * torch.sin(2 * torch.pi * (steps / (6 + 30 * periods) + phases))).sum(1)
        waves += 0.05 * torch.randn(waves.shape, generator=generator)
        data[name] = waves[:, :48, None], waves[:, 48:]
    return Forecaster(), data, Task.regression, 40


# -- recognition: three to five items of Fashion-MNIST in a row, anywhere in a strip


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(block(1, 24), block(24, 32, 2), block(32, 48), nn.AdaptiveAvgPool2d((1, None)))
        self.last = nn.Sequential(nn.Conv1d(48, 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 11, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x)[:, :, 0]).transpose(1, 2)


def strips(x: Tensor, y: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 14, 84), and labels (n, 5) from 1 on, -100 behind the last."""
    small = nn.functional.avg_pool2d(x, 2)[:, 0]
    drawn, labels = torch.zeros(n, 1, 14, 84), torch.full((n, 5), -100)
    for i in range(n):
        count = int(torch.randint(3, 6, (1,), generator=generator))
        gaps = torch.randint(0, (84 - 14 * count) // count + 1, (count,), generator=generator).tolist()
        left = 0
        for k, item in enumerate(torch.randint(len(x), (count,), generator=generator).tolist()):
            left += gaps[k]
            drawn[i, 0, :, left : left + 14], labels[i, k] = small[item], y[item] + 1
            left += 14
    return drawn, labels


def recognition() -> tuple[nn.Module, Splits, Callable[..., Task], int]:
    generator, parts = torch.Generator().manual_seed(0), images()
    sizes = {"train": 6000, "val": 1000, "test": 1000}
    return Reader(), {k: strips(*parts[k], n, generator) for k, n in sizes.items()}, Task.ctc, 10


# -- rare classes: each has three quarters of the samples of the one before, 13 times fewer in the end


def rare_classes() -> tuple[nn.Module, Splits, Callable[..., Task], int]:
    data = {}
    for name, (x, y) in images().items():
        rows = [torch.nonzero(y == c)[:, 0] for c in range(10)]
        kept = torch.cat([found[: round(len(found) * 0.75**c)] for c, found in enumerate(rows)])
        data[name] = x[kept], y[kept]
    layers = [block(1, 24, 2), block(24, 48, 2), block(48, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 10)), data, Task.classification, 12


TASKS = {f.__name__: f for f in (super_resolution, denoising, retrieval, forecasting, recognition, rare_classes)}
METRICS = {"forecasting": "RMSE", "rare_classes": "macro recall"}


def trained(name: str) -> Task:
    """The task, its network trained for the epochs that it needs, with one-cycle Adam."""
    torch.manual_seed(0)
    net, data, make, epochs = TASKS[name]()
    batches = {k: DataLoader(TensorDataset(*tensors), 64, shuffle=k == "train") for k, tensors in data.items()}
    metric = {"metric": METRICS[name]} if name in METRICS else {}
    example = data["train"][0][:1]
    task = make(net, example_input=example, **batches, **metric, name=name)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * len(batches["train"]))
    net.train()
    for _ in range(epochs):
        for inputs, targets in batches["train"]:
            optimizer.zero_grad()
            task.loss(net(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    return make(net.eval(), example_input=example, **batches, **metric, name=name)


def record(name: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Train, search, hand over the point with the best validation figure, run it."""
    begin = time.monotonic()
    task = trained(name)
    task.validate()
    base_minutes = (time.monotonic() - begin) / 60
    study = search(
        task,
        DeviceProfile.load(DEVICE),
        SearchSpace.load("auto"),
        budget=Budget(hours=minutes / 60),
        out=folder / name,
    )
    rows = [
        {
            "file": e.label,
            "on_front": e in study.front,
            "validation": e.validation.value if e.validation else None,
            "test": [e.test.value, *(e.test.interval or ())] if e.test else None,
            "predicted_latency_ms": e.predicted_latency_ms,
            "size_bytes": e.size_bytes,
        }
        for e in [*study.baselines, *(e for e in study.front if e.kind == "candidate")]
    ]
    best = max(study.front, key=lambda e: e.validation.value if e.validation else -float("inf"))
    shipped = export_point(study, best, folder / f"{name}-shipped")
    ran = subprocess.run(
        [sys.executable, shipped / "infer.py"], cwd=shipped, capture_output=True, text=True, check=False
    )
    return {
        "task": name,
        "metric": task.figure,
        "device": f"{DEVICE} (predicted)",
        "training_minutes": round(base_minutes, 2),
        "search_minutes": minutes,
        "candidates": len(study.candidates),
        "files": rows,
        "infer_returncode": ran.returncode,
        "infer_output": ran.stdout.splitlines()[:2],
        "notes": list(task.notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*TASKS])
    parser.add_argument("--minutes", type=float, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.names:
        with tempfile.TemporaryDirectory() as folder:
            found = record(name, given.minutes, Path(folder))
        (RECORDS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
