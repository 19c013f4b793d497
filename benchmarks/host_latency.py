"""How far the predictions for this machine are off, on files that its calibration never saw.

    python benchmarks/host_latency.py build FOLDER            # writes the ONNX files
    python benchmarks/host_latency.py measure FOLDER          # calibrates, then times them: on a quiet machine
    python benchmarks/host_latency.py measure FOLDER --runtime openvino    # both, and the table, for another runtime
    python benchmarks/host_latency.py table FOLDER [--record results/records/host-latency.json]

1. Compressed variants (pruned, int8, 4-bit weights, early exits, joint) of a ResNet, a MobileNetV2-like net and a ViT.
2. Networks from the field (`field_nets`), as floats and with 8 bits: those that were looked at while the latency model
   was made, those that were not, and those written for a last test.

Beside the calibrated model stand latency proportional to MACs and a plain roofline (time = the larger of MACs over a
speed and bytes over a bandwidth, per kernel). These guesses get what the model gets: their constants, one set per
number format, are fitted to the same calibration nets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from field_nets import DEVELOPMENT, FIELD, NEW, Flat, conv, inverted
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import DeviceProfile, Recipe, SearchSpace, Task
from autocompress.controller.plan import Fixed, now, versions
from autocompress.devices import cost_model
from autocompress.devices.calibration import _bundle_runner as runner
from autocompress.devices.calibration import fit
from autocompress.devices.calibration.measurements import Measurements
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.files import write_json
from autocompress.runtimes.base import Runtime, get
from autocompress.runtimes.timing import load_onnx, reference_model
from autocompress.runtimes.workload import Workload

Points = dict[str, tuple[Workload, float]]

N_VARIANTS = 22
SPACE = {
    "version": 1,
    "stages": [
        {"technique": "early_exit", "optional": True, "count": 1, "first": {"choice": [0.3, 0.6]}, "head": "linear"},
        {
            "technique": "prune",
            "optional": True,
            "ratio": {"per": "layer", "low": 0.0, "high": 0.75, "step": 0.125},
            "round_to": {"choice": [8, 4]},
        },
        {
            "technique": "ptq",
            "optional": True,
            "weight_bits": {"choice": [8, 4, 32]},
            "activation_bits": {"choice": [8]},
        },
    ],
}


def resnet() -> tuple[nn.Module, Tensor]:
    """The ResNet of the CIFAR-10 example, with random weights."""
    from field_nets import Residual

    layers, width = [conv(3, 32)], 32
    for o, s in ((32, 1), (64, 2), (128, 2), (208, 2)):
        short = None if s == 1 else conv(width, o, 1, s, act=None)
        layers.append(Residual(nn.Sequential(conv(width, o, 3, s), conv(o, o, act=None)), short, nn.ReLU()))
        width = o
    return nn.Sequential(*layers, Flat(width, 10)), torch.randn(1, 3, 32, 32)


def mobilenet_v2() -> tuple[nn.Module, Tensor]:
    """MobileNetV2 without its last stages, for 64 x 64 pixels."""
    layers, width = [conv(3, 32, 3, 2)], 32
    for expand, o, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2), (6, 64, 2, 2), (6, 96, 2, 1)):
        for block in range(n):
            layers.append(inverted(width, width * expand, o, 3, 1 if block else s, nn.ReLU6))
            width = o
    return nn.Sequential(*layers, conv(width, 320, 1, act=nn.ReLU6), Flat(320, 10)), torch.randn(1, 3, 64, 64)


def vit() -> tuple[nn.Module, Tensor]:
    """A small ViT on 64 patches."""
    from field_nets import Attention, Residual, Tokens

    blocks: list[nn.Module] = []
    for _ in range(4):
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(96), Attention(96, 4))))
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 192), nn.GELU(), nn.Linear(192, 96))))
    return Tokens(blocks, 96, 4), torch.randn(1, 3, 32, 32)


BASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {"resnet": resnet, "mobilenet_v2": mobilenet_v2, "vit": vit}


def evaluator(name: str, model: nn.Module, example: Tensor, device: DeviceProfile) -> Evaluator:
    """An evaluator whose data are noise: ranges for int8 come from it, accuracy means nothing."""
    model.eval()
    n_classes = model(example).shape[-1]
    data = TensorDataset(torch.randn(64, *example.shape[1:]), torch.randint(0, n_classes, (64,)))
    return Evaluator(Task.classification(model, train=data, val=data, example_input=example, name=name), device)


def files(ev: Evaluator, recipes: dict[str, Recipe]) -> Iterator[tuple[str, bytes]]:
    """The deployed file of each recipe that can be built."""
    for name, recipe in recipes.items():
        try:
            candidate = ev._numerics(ev.structure(recipe), recipe)
            yield name, ev.deployer.build(candidate).proto.SerializeToString()
        except CandidateError as error:
            print(f"{name}: left out: {error}")


def build(folder: Path, seed: int) -> None:
    """Write all files; `seed` chooses the variants."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    device = DeviceProfile.load("host")
    rng = np.random.default_rng(seed)
    space = SearchSpace.parse(SPACE)
    for base, make in BASES.items():
        torch.manual_seed(0)
        ev = evaluator(base, *make(), device)
        outline = ev.analysis.outline
        recipes = {}
        for number in range(N_VARIANTS):
            knobs = space.knobs(outline).items()
            drawn = {
                k: d.values[rng.integers(len(d.values))] if hasattr(d, "values") else d.at(rng.random())
                for k, d in knobs
            }
            if number == 0:
                drawn |= dict.fromkeys(("early_exit", "prune", "ptq"), "off")
            recipes[f"variant_{base}_{number:02d}"] = space.sample(Fixed(drawn), outline)
        for name, content in files(ev, recipes):
            (folder / f"{name}.onnx").write_bytes(content)
        print(base, flush=True)
    for name, net in FIELD.items():
        ev = evaluator(name, *net(), device)
        both = ev.baselines()
        for kind, content in files(ev, {f"field_{name}_{k}": both[k] for k in ("fp32", "int8")}):
            (folder / f"{kind}.onnx").write_bytes(content)
        print(name, flush=True)


def measure(folder: Path, runtime: Runtime, threads: int, calibration_s: float, seconds: float) -> None:
    """Calibrate this machine, then time the files with the same protocol."""
    began = time.perf_counter()

    def progress(share: float, text: str) -> None:
        print(f"{time.perf_counter() - began:.0f} s: {text}", flush=True)

    fit.measure_plan(runtime, threads, calibration_s, progress).save(folder / f"{runtime.name}-plan-{threads}.json")
    sources = {path.stem: path.read_bytes for path in sorted(folder.glob("*.onnx"))}
    timings, refused = runner.measure_models(
        sources,
        reference_model,
        partial(load_onnx, runtime),
        threads,
        seconds,
        lambda timings, words: progress(0, f"{len(timings)} files{words}"),
    )
    write_json(folder / f"{runtime.name}-files-{threads}.json", {"timings": timings, "refused": refused})


def load(folder: Path, runtime: Runtime, threads: int) -> tuple[DeviceProfile, Points, Points]:
    """The profile fitted to the plan, the points of the plan, and those of the files; ms at full speed."""
    import json

    measured = Measurements.parse(json.loads((folder / f"{runtime.name}-plan-{threads}.json").read_text()), "plan")
    profile = fit.fit_profile(measured, "host")
    timings = json.loads((folder / f"{runtime.name}-files-{threads}.json").read_text())["timings"]
    best_ms = min(measured.reference_ms, float(np.percentile([t["reference_ms"] for t in timings], 10)))
    tested = {}
    for t in timings:
        work = runtime.kernels(onnx.load(folder / f"{t['name']}.onnx")).workload()
        tested[t["name"]] = work, t["latency_ms"] * best_ms / t["reference_ms"]
    known = measured.at_full_speed_ms()
    for name in fit.EXIT_PAIR:
        known.pop(name, None)
    return profile, fit._points(known, runtime), tested


def by_macs(known: Points) -> Callable[[Workload], float]:
    """MACs of each number format times one constant, fitted to relative errors."""

    def work(w: Workload) -> Any:
        macs = {d: sum(op.macs for op in w.ops if op.dtype == d) for d in ("float32", "int8")}
        return np.array([macs["float32"], macs["int8"]]) / 1e6

    return _fitted(known, lambda w, x: float(work(w) @ x), 2)


def roofline(known: Points) -> Callable[[Workload], float]:
    """Sum over kernels of the larger of compute and memory time, fitted to relative errors."""
    table: dict[int, Any] = {}

    def work(w: Workload, x: Any) -> float:
        if id(w) not in table:
            rows = [(op.macs * (op.dtype != "int8"), op.macs * (op.dtype == "int8"), op.bytes_moved) for op in w.ops]
            table[id(w)] = np.array(rows, float).reshape(-1, 3) / 1e6
        kernels = table[id(w)]
        return float(np.maximum(kernels[:, :2] @ x[:2], kernels[:, 2] * x[2]).sum())

    return _fitted(known, work, 3)


def _fitted(known: Points, model: Callable[[Workload, Any], float], n: int) -> Callable[[Workload], float]:
    """Fit the constants of a guess to the median-like error over the calibration nets."""

    def loss(log: Any) -> float:
        errors = [abs(np.log(max(model(w, np.exp(log)), 1e-9) / ms)) for w, ms in known.values()]
        return float(np.mean(np.minimum(errors, 2)))

    best = min((minimize(loss, np.full(n, s), method="Nelder-Mead") for s in (-6.0, -4.5)), key=lambda r: r.fun)
    return lambda w: model(w, np.exp(best.x))


def figures(predicted: Any, measured: Any) -> dict[str, float]:
    """Errors of some predictions."""
    errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    return {
        "files": len(errors),
        "median_error": round(float(np.median(errors)), 4),
        "within_10_percent": round(float(np.mean(errors <= 0.10)), 3),
        "within_15_percent": round(float(np.mean(errors <= 0.15)), 3),
        "rank_correlation": round(float(spearmanr(predicted, measured).statistic), 4),
    }


def _net(name: str) -> str:
    """Of a file "field_<net>_<format>"."""
    return name.removeprefix("field_").rpartition("_")[0]


def table(folder: Path, runtime: Runtime, threads: int) -> dict[str, Any]:
    """Errors per family and model; printed and returned."""
    profile, known, tested = load(folder, runtime, threads)
    models: dict[str, Callable[[Workload], float]] = {
        "calibrated": lambda w: cost_model.predict(profile, w).latency_ms,
        "roofline": roofline(known),
        "MACs": by_macs(known),
    }
    families = {
        "variants": lambda n: n.startswith("variant"),
        **{f"variants of {base}": (lambda n, base=base: n.startswith(f"variant_{base}_")) for base in BASES},
        "field": lambda n: n.startswith("field"),
        "field fp32": lambda n: n.startswith("field") and n.endswith("fp32"),
        "field int8": lambda n: n.startswith("field") and n.endswith("int8"),
        "field, development half": lambda n: _net(n) in DEVELOPMENT,
        "field, held out": lambda n: n.startswith("field") and _net(n) not in (*DEVELOPMENT, *NEW),
        "field, new": lambda n: _net(n) in NEW,
    }
    predicted = {model: {name: guess(w) for name, (w, _) in tested.items()} for model, guess in models.items()}
    found: dict[str, Any] = {}
    print(f"{threads} thread(s)   median  <=10%  <=15%   rank")
    for family, member in families.items():
        names = [name for name in tested if member(name)]
        if len(names) < 2:
            continue
        for model in models:
            own = figures([predicted[model][n] for n in names], [tested[n][1] for n in names])
            found.setdefault(family, {})[model] = own
            shares = f"{own['within_10_percent']:6.0%} {own['within_15_percent']:6.0%} {own['rank_correlation']:7.3f}"
            print(f"{family:24s} {model:10s} {own['files']:3.0f} {own['median_error']:7.1%} {shares}")
    assert profile.calibration is not None
    return {
        "runtime": runtime.name,
        "threads": threads,
        "processor": profile.processor,
        "runtime_version": profile.runtime_version,
        "calibration_seconds": profile.calibration.seconds,
        "calibration_points": profile.calibration.points,
        "calibration_held_out_median_error": profile.calibration.median_error,
        "families": found,
        "files": {
            n: {"measured_ms": round(ms, 5), "predicted_ms": round(predicted["calibrated"][n], 5)}
            for n, (_, ms) in tested.items()
        },
    }


def main() -> None:
    """Build, measure or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("build", "measure", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=7, help="of the variants; those of 5 and 6 served development")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--calibration-seconds", type=float, default=170.0)
    parser.add_argument("--seconds", type=float, default=90.0, help="for the files")
    parser.add_argument("--record", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    if arguments.step == "build":
        build(arguments.folder, arguments.seed)
    elif arguments.step == "measure":
        for threads in arguments.threads:
            measure(arguments.folder, get(arguments.runtime), threads, arguments.calibration_seconds, arguments.seconds)
    else:
        rows = [table(arguments.folder, get(arguments.runtime), threads) for threads in arguments.threads]
        if arguments.record:
            record = {
                "benchmark": "host-latency",
                "at": now(),
                "versions": versions(get(arguments.runtime)),
                "runs": rows,
            }
            write_json(arguments.record, record)


if __name__ == "__main__":
    main()
