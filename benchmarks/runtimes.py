"""One runtime of this machine beside ONNX Runtime, on the same files: accuracy, latency, kernels that compute in int8.

    python benchmarks/runtimes.py openvino [--record results/records/runtimes/openvino.json]

Networks: that of the quickstart on Fashion-MNIST, and small ones of the tests, trained for a moment on synthetic
classes (their accuracy says how faithful the runtime is, not how good they are). Each in float32, int8, and 4-bit
weights, in files of the runtime's own where it has such. All latencies of a network are taken in one run, round-robin,
as the CPU time of the one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples")]

from helpers.small import small_task  # noqa: E402

from autocompress import DeviceProfile, Recipe, Task  # noqa: E402
from autocompress.controller.plan import now, versions  # noqa: E402
from autocompress.evaluation.evaluator import Evaluator  # noqa: E402
from autocompress.files import write_json  # noqa: E402
from autocompress.runtimes._timing import TimingProtocol, time_together  # noqa: E402
from autocompress.runtimes.base import Runtime, get, pieces, reference  # noqa: E402

PROTOCOL = TimingProtocol(rounds=40, runs=20, passes=4, pause_s=0.2, max_seconds=4.0)
FORMATS: dict[str, list[dict[str, Any]]] = {
    "fp32": [],
    "int8": [{"technique": "ptq"}],
    "w4a8": [{"technique": "ptq", "weight_bits": 4}],
}


def fashion_mnist() -> Task:
    """The task of the quickstart."""
    from fashion_mnist import task

    return task()


TASKS: dict[str, Callable[[], Task]] = {
    "fashion-mnist": fashion_mnist,
    **{net: (lambda net=net: small_task(net, n=1024)) for net in ("resnet", "mobilenetv2", "vit", "audio1d", "mlp")},
}


def compare(name: str, runtime: Runtime) -> Iterator[dict[str, Any]]:
    """A row per number format."""
    task = TASKS[name]()
    device = DeviceProfile.load("raspberry-pi-4")
    ours, theirs = (Evaluator(task, device.model_copy(update={"runtime": r})) for r in (runtime.name, "onnxruntime"))
    sample = {k: v[:1] for k, v in task.calibration_batches(1, 0)[0].items()}
    models: list[Any] = []
    rows = []
    for label, stages in FORMATS.items():
        file = theirs.evaluate(Recipe.parse({"stages": stages}))[0].file
        own = runtime.convert(onnx.load_from_string(file))
        pair = [runtime.load(own), reference().load(file)]
        models += pair
        found = [_predictions(model, task) for model in pair]
        rows.append(
            {
                "network": name,
                "format": label,
                "size_bytes": len(own),
                "size_bytes_onnx": len(file),
                "samples": len(found[0]),
                "accuracy": round(ours.score(own, "validation").value, 5),
                "accuracy_onnxruntime": round(theirs.score(file, "validation").value, 5),
                "same_prediction": round(float((found[0] == found[1]).mean()), 5),
            }
        )
    watches = time_together([(model, sample) for model in models], 1, PROTOCOL)
    for row, mine, other in zip(rows, watches[::2], watches[1::2], strict=True):
        row["latency_ms"] = round(min(mine.smallest_ns) / 1e6, 5)
        row["latency_ms_onnxruntime"] = round(min(other.smallest_ns) / 1e6, 5)
        yield row


def _predictions(model: Any, task: Task) -> Any:
    batches = [piece for inputs, _ in task.split("validation") for piece in pieces(model, inputs)]
    return np.concatenate([model(piece)[model.outputs[-1]].argmax(-1) for piece in batches])


def main() -> None:
    """Compare, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime")
    parser.add_argument("--networks", nargs="+", default=list(TASKS))
    parser.add_argument("--record", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    runtime = get(arguments.runtime)
    rows = []
    for name in arguments.networks:
        for row in compare(name, runtime):
            rows.append(row)
            print(row, flush=True)
    if arguments.record:
        record = {"benchmark": "runtimes", "at": now(), "versions": versions(runtime), "threads": 1, "rows": rows}
        write_json(arguments.record, record)


if __name__ == "__main__":
    main()
