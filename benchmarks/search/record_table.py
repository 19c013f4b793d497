"""Record a table: every recipe of a small space carried out once, at every fidelity, on Fashion-MNIST.

    python benchmarks/search/record_table.py              # goes on where it was stopped; about 20 minutes of one core
    python benchmarks/search/record_table.py --pack       # results/records/search-table.json.xz, for tabular.py
    python benchmarks/search/record_table.py --check 5    # random recipes again, as a search carries them out

256 networks (four pruning ratios, an early exit or none) are trained by distillation; each becomes four files (fp32,
and int8 with weights of 8, of 8 and 4, and of 4 bits), and with an exit each file has six thresholds: 3,584 recipes. Of
a network the accuracy on the validation images is kept after pruning and BatchNorm re-estimation and after each epoch
(torch); of a recipe the accuracy of its file in ONNX Runtime on validation and test images, its bytes, and its latency
predicted for a Raspberry Pi 4. Costs are CPU seconds of one thread.

With an exit, both outputs of the quantised graph are computed for all images, and the thresholds are applied to them;
`--check` runs the files themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import numpy as np
import torch
from datasets import TensorBatches, fashion_mnist_batches
from numpy.typing import NDArray
from resnet import ResNet
from torch import Tensor
from train import Job, accuracy, fast_dtype, save
from train import fit as train_base

from autocompress import DeviceProfile, Recipe, Task
from autocompress.compression.candidate import Candidate
from autocompress.compression.stage import Phase
from autocompress.compression.techniques.distill import Distill
from autocompress.compression.training import Distillation, Schedule, fit, to_layout
from autocompress.controller.plan import now, versions
from autocompress.evaluation.elastic import torch_score
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.thresholds import NEVER
from autocompress.runtimes.base import Model, reference
from autocompress.tasks.metric import Split

Array = NDArray[Any]
ROOT = Path(__file__).parents[2]
DEVICE = "raspberry-pi-4"
FOLDER = ROOT / "results" / "search-table"
RECORD = ROOT / "results" / "records" / "search-table.json.xz"
RATIOS = {
    "stage1": (0.0, 0.5),
    "stage2": (0.0, 0.25, 0.5, 0.75),
    "stage3": (0.0, 0.25, 0.5, 0.75),
    "stage4": (0.0, 0.25, 0.5, 0.75),
}
BITS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "int8": {"weight_bits": 8},
    "int8, int4 in stage 4": {"weight_bits": {"default": 8, "stage4": 4}},
    "int4 weights": {"weight_bits": 4},
}
THRESHOLDS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
EPOCHS = 3
SEED = 0
_FINE_TUNED, _BASE_TRAINED = 2560, 6000
"""Images of the training split; what the base did not see is added to the test images."""
_BATCH = 128
_BASE = Job(lambda: ResNet(16, (16, 32, 64), (2, 2, 2), in_channels=1), fashion_mnist_batches, FOLDER / "base.pt",
            epochs=12, peak_lr=0.1, weight_decay=1e-3)  # fmt: skip


class Network(NamedTuple):
    """What is trained: the ratios of the four stages, and whether there is an early exit."""

    ratios: tuple[float, ...]
    has_exit: bool

    def recipe(self, *more: Any) -> Recipe:
        """Its recipe, with further stages."""
        ratio = {name: value for name, value in zip(RATIOS, self.ratios, strict=True) if value}
        exits = [{"technique": "early_exit", "first": 0.4, "hidden": 16}] if self.has_exit else []
        prune = [{"technique": "prune", "ratio": ratio, "round_to": 4}] if ratio else []
        distill = Distill(epochs=EPOCHS, learning_rate=0.05, temperature=4.0, weight=0.7, exit_weight=0.5)
        return Recipe.parse({"stages": [*exits, *prune, distill, *more]})

    def with_file(self, bits: str, threshold: float) -> Recipe:
        """The recipe of one of its files; without an exit the threshold means nothing."""
        numerics = [{"technique": "ptq", **BITS[bits]}] if BITS[bits] else []
        runtime = [{"technique": "exit_threshold", "thresholds": [threshold]}] if self.has_exit else []
        return self.recipe(*numerics, *runtime)


class EveryEpoch:
    """Training batches that call `then` behind each epoch."""

    def __init__(self, batches: TensorBatches) -> None:
        self.batches = batches
        self.then: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.batches
        self.then()


def networks() -> list[Network]:
    """All of them; those without the strongest ratio first, so that half a table would be a smaller space."""
    found = [Network(r, e) for r in itertools.product(*RATIOS.values()) for e in (False, True)]
    return sorted(found, key=lambda n: (max(n.ratios) > 0.5, n.has_exit))


def task() -> Task:
    """Fashion-MNIST with few training images."""
    train, val, test = fashion_mnist_batches()
    few = _part(train, 0, _FINE_TUNED, shuffle=True, drop_last=True)
    unseen = _part(train, _BASE_TRAINED, len(train.x))
    return Task.classification(
        _base(train, val),
        train=EveryEpoch(few),
        val=val,
        test=TensorBatches(torch.cat([test.x, unseen.x]), torch.cat([test.y, unseen.y]), 500, transform=test.transform),
        example_input=torch.zeros(1, 1, 28, 28),
        autocast=fast_dtype(),
        channels_last=True,
        name="fashion-mnist-small",
    )


def _part(batches: TensorBatches, start: int, stop: int, **settings: Any) -> TensorBatches:
    augment = batches.augment if settings else None
    x, y = batches.x[start:stop], batches.y[start:stop]
    return TensorBatches(x, y, _BATCH, transform=batches.transform, augment=augment, **settings)


def _base(train: TensorBatches, val: TensorBatches) -> torch.nn.Module:
    model = _BASE.model()
    if not _BASE.checkpoint.exists():
        torch.manual_seed(0)
        model = _BASE.model()
        train_base(model, _part(train, 0, _BASE_TRAINED, shuffle=True, drop_last=True), _BASE, _BASE.epochs)
        save(model, _BASE.checkpoint)
        print(f"base: validation {accuracy(model, val):.4f}", flush=True)
    model.load_state_dict(torch.load(_BASE.checkpoint, map_location="cpu", weights_only=True))
    return model.eval()


def measure(evaluator: Evaluator, network: Network) -> dict[str, Any]:
    """One line of the record: a network after pruning and after each epoch, and its files."""
    context, watch = evaluator.context, _Watch()
    pruned = evaluator.structure(network.recipe())
    distill = network.recipe().get("distill")
    assert isinstance(distill, Distill)
    structure = watch.lap()
    look = distill.model_copy(update={"epochs": 0}).apply(pruned, context)
    curve, seconds = [torch_score(look.model, context).value], [watch.lap()]
    model = to_layout(pruned.copy_model(), True).requires_grad_(True)

    def note() -> None:
        model.eval()
        curve.append(torch_score(model, context).value)
        model.train()
        seconds.append(watch.lap())

    context.task.train.then = note
    schedule = Schedule(EPOCHS, float(distill.learning_rate), distill.optimizer, float(distill.weight_decay))
    terms = Distillation(float(distill.temperature), float(distill.weight), exit_weight=float(distill.exit_weight))
    fit(model, context, schedule, terms)
    context.task.train.then = lambda: None
    trained = pruned.evolve(model=to_layout(model, False).eval())
    return {
        "ratios": network.ratios,
        "exit": network.has_exit,
        "curve": curve,
        "structure_s": structure,
        "curve_s": seconds,
        "files": [_file(evaluator, network, trained, bits) for bits in BITS],
    }


def _file(evaluator: Evaluator, network: Network, trained: Candidate, bits: str) -> dict[str, Any]:
    watch, context, deployer = _Watch(), evaluator.context, evaluator.deployer
    recipe = network.with_file(bits, THRESHOLDS[0])
    candidate = trained
    for stage in recipe.stages:
        if stage.phase > Phase.TRAINING:
            candidate = stage.apply(candidate, context)
    deployment = deployer.build(candidate)
    path_ms = deployer.cost(deployment).path_ms
    size = len(deployer.finish(deployment, candidate.thresholds, recipe, evaluator.provenance()).file)
    model = reference().load(deployment.proto.SerializeToString())
    validation = _answers(model, context.task, "validation")
    seconds = watch.lap()
    test = _answers(model, context.task, "test")
    points = []
    for threshold in THRESHOLDS if network.has_exit else (NEVER,):
        (accuracy_, rate), (tested, _) = (_judge(*answers, threshold) for answers in (validation, test))
        ms = rate * path_ms[0] + (1 - rate) * path_ms[-1]
        points.append({"validation": accuracy_, "test": tested, "ms": round(ms, 6), "rate": rate})
    return {"bytes": size, "path_ms": path_ms, "cpu_s": seconds, "points": points}


def _answers(model: Model, task: Task, split: Split) -> tuple[Array, Array]:
    """Of each image: whether the first and the last output are right, and the confidence of the first."""
    right, confidence = [], []
    for inputs, labels in task.split(split):
        logits = list(model(inputs).values())
        right.append(np.stack([logits[i].argmax(1) == labels for i in (0, -1)], 1))
        shifted = np.exp(logits[0] - logits[0].max(1, keepdims=True))
        confidence.append((shifted / shifted.sum(1, keepdims=True)).max(1))
    return np.concatenate(right), np.concatenate(confidence)


def _judge(right: Array, confidence: Array, threshold: float) -> tuple[float, float]:
    """Accuracy, and the share of the images that leave at the first output."""
    leaves = confidence > threshold
    return float(np.where(leaves, right[:, 0], right[:, -1]).mean()), float(leaves.mean())


class _Watch:
    """CPU seconds of this process since the last lap."""

    def __init__(self) -> None:
        self._last = time.process_time()

    def lap(self) -> float:
        at = time.process_time()
        passed, self._last = at - self._last, at
        return round(passed, 3)


def check(evaluator: Evaluator, rows: Sequence[Mapping[str, Any]], n: int) -> None:
    """Carry out random recipes of the record again, as a search does, and print both results."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        row = rows[rng.integers(len(rows))]
        i, j = int(rng.integers(len(BITS))), int(rng.integers(len(row["files"][0]["points"])))
        network, file = Network(tuple(row["ratios"]), row["exit"]), row["files"][i]
        recipe = network.with_file(list(BITS)[i], THRESHOLDS[j])
        found = evaluator.evaluate(recipe)[0].evaluation
        assert found.validation is not None
        again = found.validation.value, found.predicted_latency_ms, found.size_bytes
        print(recipe.summary(), again, (file["points"][j]["validation"], file["points"][j]["ms"], file["bytes"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10**9, help="stop after so many more")
    parser.add_argument("--pack", action="store_true")
    parser.add_argument("--check", type=int, default=0, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = FOLDER / "networks.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    if options.pack:
        RECORD.write_bytes(lzma.compress(json.dumps(_head() | {"networks": rows}, separators=(",", ":")).encode()))
        print(f"{len(rows)} of {len(networks())} networks, {RECORD.stat().st_size:,} bytes")
        return
    evaluator = Evaluator(task(), DeviceProfile.load(DEVICE), seed=SEED)
    if options.check:
        check(evaluator, rows, options.check)
        return
    known = {Network(tuple(row["ratios"]), row["exit"]) for row in rows}
    left = [network for network in networks() if network not in known][: options.networks]
    for has_exit in (False, True) if left else ():  # the first ones pay for exports that the others share
        measure(evaluator, Network(left[0].ratios, has_exit))
    with lines.open("a") as file:
        for network in left:
            row = measure(evaluator, network)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                row["ratios"], row["exit"], row["curve"], row["curve_s"], [f["cpu_s"] for f in row["files"]], flush=True
            )


def _head() -> dict[str, Any]:
    return {
        "benchmark": "search-table",
        "at": now(),
        "device": DEVICE,
        "seed": SEED,
        "ratios": RATIOS,
        "bits": list(BITS),
        "thresholds": THRESHOLDS,
        "epochs": EPOCHS,
        "images": {"base": _BASE_TRAINED, "fine-tuning": _FINE_TUNED, "validation": 2000, "test": 4000},
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
