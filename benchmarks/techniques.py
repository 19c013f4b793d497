"""What a technique that the space `auto` does not use brings, against pruning after the same training.

    python benchmarks/techniques.py depth|low_rank|sparsity ... [--device raspberry-pi-4]

Each recipe is trained with the same number of epochs and the original as its teacher, quantised to int8, and run in
ONNX Runtime on both splits of the Fashion-MNIST part of this repository; its latency is predicted. The quickstart's
network has its checkpoint; the others are trained here first, until they no longer gain, and kept in the data folder.
One record per technique goes to results/records/techniques/.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import DeviceProfile, Recipe, Task
from autocompress.evaluation.evaluator import Evaluator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import datasets
import resnet
from helpers.zoo import InvertedResidual, TransformerBlock, conv_bn
from train import JOBS, Job, fast_dtype, fit, save, trained

RECORDS = Path(__file__).resolve().parents[1] / "results" / "records" / "techniques"
_EPOCHS = 20


def deep_resnet() -> nn.Module:
    """ResNet-20: nine blocks, seven of which have an identity shortcut."""
    return resnet.ResNet(16, (16,) * 3 + (32,) * 3 + (64,) * 3, (1, 1, 1, 2, 1, 1, 2, 1, 1), in_channels=1)


class Mobile(nn.Module):
    """Eight inverted residuals, six of which add their input."""

    def __init__(self) -> None:
        super().__init__()
        plan = [(16, 16, 1, 1), (16, 24, 2, 4), *[(24, 24, 1, 4)] * 2, (24, 40, 2, 4), *[(40, 40, 1, 4)] * 3]
        blocks = [InvertedResidual(*each) for each in plan]
        ends = conv_bn(1, 16, 3, 2, act=nn.ReLU6), conv_bn(40, 128, 1, act=nn.ReLU6)
        self.features = nn.Sequential(ends[0], *blocks, ends[1])
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Vit(nn.Module):
    """Six transformer blocks on patches of 4x4."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, 4, 4)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 49, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4, False) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens)).mean(1))


NETS: dict[str, Callable[[], nn.Module]] = {"deep_resnet": deep_resnet, "mobile": Mobile, "vit": Vit}


def prune(ratio: float) -> dict[str, Any]:
    return {"technique": "prune", "ratio": ratio, "round_to": 8}


def depth(ratio: float) -> dict[str, Any]:
    return {"technique": "depth", "ratio": ratio}


def low_rank(share: float) -> dict[str, Any]:
    return {"technique": "low_rank", "share": share}


VARIANTS: dict[str, dict[tuple[str, int], list[list[dict[str, Any]]]]] = {
    "depth": {
        ("deep_resnet", 3): [
            [prune(0.1875)], [depth(0.15), prune(0.1875)], [depth(0.3), prune(0.125)], [depth(0.57)],
            [prune(0.375)], [prune(0.5)],
            [prune(0.3125)], [depth(0.15), prune(0.3125)], [depth(0.3), prune(0.3125)], [depth(0.57), prune(0.125)],
        ],
        ("mobile", 2): [
            [prune(0.375)], [depth(0.5)], [depth(0.5), prune(0.25)], [prune(0.5)], [depth(0.25), prune(0.25)]
        ],
        ("vit", 2): [[depth(0.5)], [prune(0.5)]],
    },
    "low_rank": {
        ("quickstart", 3): [
            [prune(0.25)], [low_rank(0.5)], [prune(0.4)], [low_rank(0.35)], [prune(0.25), low_rank(0.6)], [prune(0.5)]
        ],
    },
    "sparsity": {
        ("quickstart", 3): [
            [{"technique": "sparsity", "ratio": 0.75}], [{"technique": "sparsity", "ratio": 0.5, "group": 4}]
        ],
    },
}  # fmt: skip
"""Of each technique: by network and epochs, the structure stages that are compared."""
RATES = {"vit": 1e-3}
"""Peak rates of the training, where it is not 0.03."""


def base(name: str) -> nn.Module:
    """The finished network."""
    if name == "quickstart":
        return trained(JOBS["fashion-mnist"])
    path = datasets.cache_folder() / f"techniques-{name}.pt"
    job = Job(NETS[name], datasets.fashion_mnist_batches, path, _EPOCHS, 0.1, 1e-3)
    if not path.exists():
        torch.manual_seed(0)
        model, batches = job.model(), job.batches()
        fit_transformer(model, batches.train) if name == "vit" else fit(model, batches.train, job, _EPOCHS)
        save(model, path)
    return trained(job)


def fit_transformer(model: nn.Module, batches: datasets.TensorBatches) -> None:
    """AdamW with a one-cycle rate."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=_EPOCHS * len(batches))
    for _ in range(_EPOCHS):
        model.train()
        for x, y in batches:
            loss = nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()


def task(name: str) -> Task:
    """The network on the part of Fashion-MNIST in this repository."""
    train, val, test = datasets.fashion_mnist_batches()
    given = {"example_input": torch.zeros(1, 1, 28, 28), "autocast": fast_dtype(), "channels_last": name != "vit"}
    return Task.classification(base(name), train=train, val=val, test=test, name=name, **given)


def measure(evaluator: Evaluator, net: str, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of a record."""
    outcome = evaluator.evaluate(Recipe.parse({"stages": stages}))[0]
    e = outcome.evaluation
    return {
        "net": net,
        "recipe": e.recipe.to_dict(),
        "validation": e.validation.value,
        "test": evaluator.score(outcome.file, "test").value,
        "predicted_ms": e.predicted_latency_ms,
        "size_bytes": e.size_bytes,
        "macs": e.macs,
        "train_seconds": e.seconds.get("training", 0.0),
        "notes": [note for note in e.notes if note.startswith("sparsity")],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("technique", nargs="+", choices=sorted(VARIANTS))
    parser.add_argument("--device", default="raspberry-pi-4")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for technique in args.technique:
        rows = []
        for (net, epochs), variants in VARIANTS[technique].items():
            evaluator = Evaluator(task(net), DeviceProfile.load(args.device))
            training = {"technique": "distill", "epochs": epochs, "learning_rate": RATES.get(net, 0.03), "weight": 0.9}
            after = [{**training, "optimizer": "auto"}, {"technique": "ptq"}]
            for stages in ([], [{"technique": "ptq"}], *([*variant, *after] for variant in variants)):
                rows.append(measure(evaluator, net, stages))
                print(json.dumps(rows[-1]), flush=True)
        RECORDS.mkdir(parents=True, exist_ok=True)
        record = {"device": args.device, "latency": "predicted", "rows": rows}
        (RECORDS / f"{technique}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
