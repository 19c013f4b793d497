"""What each repair of post-training quantisation brings: test accuracy of the file, for several networks and formats.

    python benchmarks/repair.py [NAME ...] [--seeds 3]

The networks are those of `repair_nets.py`. Each file is written as a search writes it, from 256 calibration samples
drawn by the seed, and run in ONNX Runtime on the test split. Beside its accuracy stands its error: the squared
difference of its outputs from the float network's, relative to their variance. The seconds are CPU time of one thread
for what a repair adds. One record per network goes to results/records/repair/; the table of all records is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from repair_nets import NETS, task

from autocompress import DeviceProfile
from autocompress.compression.candidate import Candidate
from autocompress.evaluation.evaluator import Evaluator
from autocompress.graphs import qdq
from autocompress.graphs.equalize import equalize, joins
from autocompress.graphs.export import INPUT, strip
from autocompress.graphs.observe import observe
from autocompress.graphs.quantizable import Graph, QuantSpec, plan, quantizable_layers
from autocompress.graphs.repair import repair
from autocompress.runtimes.adapters.onnxruntime.session import Session

RECORDS = Path(__file__).resolve().parents[1] / "results" / "records" / "repair"
FORMATS = {"8/8": (8, 8), "4/8": (4, 8), "2/8": (2, 8), "4/32": (4, 32)}
"""Bits of weights and activations."""
SAMPLES = 256
Batches = Sequence[Any]
Change = Callable[[onnx.ModelProto, Batches], onnx.ModelProto]


def equalize_by_weights(model: onnx.ModelProto, batches: Batches) -> onnx.ModelProto:
    """As published (Nagel et al., ICCV 2019): the weights before and behind a channel have equal ranges."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {i.name: i for i in result.graph.initializer}
    values = {name: numpy_helper.to_array(i).astype(np.float64) for name, i in constants.items()}
    found = [join for join in joins(Graph(result.graph)) if values[join.made_by[0][0]].ndim > 1]
    for _ in range(20):
        for join in found:
            (name, axis), n = join.made_by[0], values[join.made_by[0][0]].shape[join.made_by[0][1]]
            made, read = largest(values[name], axis, n), largest(values[join.read_by[0][0]], join.read_by[0][1], n)
            scale = np.where((made > 0) & (read > 0), np.sqrt(made / np.maximum(read, 1e-30)), 1.0)
            for names, power in ((join.made_by, -1), (join.read_by, 1)):
                for name, axis in names:
                    repeated = np.repeat(scale**power, values[name].shape[axis] // n)
                    shape = [-1 if k == axis else 1 for k in range(values[name].ndim)]
                    values[name] = values[name] * repeated.reshape(shape)
    for name in {name for join in found for name, _ in (*join.made_by, *join.read_by)}:
        constants[name].CopyFrom(numpy_helper.from_array(values[name].astype(np.float32), name))
    return result


def largest(weight: NDArray[Any], axis: int, n: int) -> NDArray[Any]:
    """Of each of n channels; a flattened one has several places."""
    found: NDArray[Any] = np.abs(np.moveaxis(weight, axis, 0)).reshape(n, -1).max(1)
    return found


def unchanged(model: onnx.ModelProto, batches: Batches) -> onnx.ModelProto:
    """No equalisation."""
    return model


REPAIRS: dict[str, tuple[Change, str, str]] = {
    "none": (unchanged, "nearest", "none"),
    "bias correction": (unchanged, "nearest", "all"),
    "equalised by weights": (equalize_by_weights, "nearest", "none"),
    "equalised": (equalize, "nearest", "none"),
    "least squares": (unchanged, "least_squares", "none"),
    "least squares, biases": (unchanged, "least_squares", "all"),
    "all": (equalize, "least_squares", "all"),
}
"""Equalisation, rounding, bias correction."""


class Subject:
    """One network under test."""

    def __init__(self, name: str) -> None:
        self.task = task(name)
        self.graph = Evaluator(self.task, DeviceProfile.load("raspberry-pi-5")).deployer.float_graph(
            Candidate(self.task.model)
        )
        self.layers = [layer.name for layer in quantizable_layers(self.graph)]
        net = NETS[name]
        test = net.data().test
        split = [(x, y) for (x, y), _ in zip(test, range(0, net.n_test, test.batch_size), strict=False)]
        self.inputs, self.targets = [x.numpy() for x, _ in split], np.concatenate([y.numpy() for _, y in split])
        self.wanted = self.outputs(self.graph)

    def outputs(self, graph: onnx.ModelProto) -> NDArray[Any]:
        """Of the file, on the test split."""
        session = Session(strip(graph).SerializeToString())
        return np.concatenate([session({INPUT: x})["logits"] for x in self.inputs])

    def accuracy(self, outputs: NDArray[Any]) -> float:
        """In percent."""
        return float((outputs.argmax(1) == self.targets).mean() * 100)

    def judge(self, bits: tuple[int, int], how: tuple[Change, str, str], seed: int) -> dict[str, float]:
        """Write a file and run it."""
        change, rounding, correction = how
        batches = self.task.calibration_batches(SAMPLES, seed)
        started = time.process_time()
        model = change(self.graph, batches)
        seconds = time.process_time() - started
        weights, activations = (dict.fromkeys(self.layers, n) for n in bits)
        spec = plan(model, QuantSpec(weights, activations))
        ranges = observe(model, spec, batches, "minmax")
        started = time.process_time()
        how_to: Any = {"rounding": rounding, "bias_correction": correction}
        model, codes = repair(model, spec, ranges, batches, **how_to)
        seconds += time.process_time() - started
        outputs = self.outputs(qdq.write_qdq(model, spec, ranges, codes))
        error = np.square(outputs - self.wanted).sum() / np.square(self.wanted - self.wanted.mean(0)).sum()
        return {"accuracy": self.accuracy(outputs), "error": float(error), "seconds": seconds}


def measure(name: str, seeds: int, formats: Sequence[str]) -> dict[str, Any]:
    """All repairs of one network, in some formats; what a record has of the others stays."""
    subject, path = Subject(name), RECORDS / f"{name}.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [row for row in kept if row["bits"] not in formats]
    for text, bits in ((text, FORMATS[text]) for text in formats):
        for repair_name, how in REPAIRS.items():
            if bits[0] == 8 and how[1] == "least_squares" and how[0] is unchanged:
                continue  # there are no 4-bit codes
            found = [subject.judge(bits, how, seed) for seed in range(seeds)]
            row = {key: [round(one[key], 6) for one in found] for key in found[0]}
            rows.append({"bits": text, "repair": repair_name, **row})
            print(f"{name} {text} {repair_name}: {row}", flush=True)
    return {"network": name, "fp32": subject.accuracy(subject.wanted), "n_test": len(subject.targets), "rows": rows}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Means over seeds: accuracy, and the error in thousandths of the outputs' variance."""
    lines = ["| network | bits | " + " | ".join(REPAIRS) + " |", "|" + "---|" * (len(REPAIRS) + 2)]
    for record in records:
        for bits in FORMATS:
            cells = {row["repair"]: row for row in record["rows"] if row["bits"] == bits}
            texts = [
                f"{np.mean(cells[r]['accuracy']):.2f} ({np.mean(cells[r]['error']) * 1e3:.2g})" if r in cells else ""
                for r in REPAIRS
            ]
            if cells:
                lines.append(f"| {record['network']}, {record['fp32']:.2f} | {bits} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure repairs of post-training quantisation.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(NETS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", nargs="*", choices=FORMATS, default=list(FORMATS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    RECORDS.mkdir(parents=True, exist_ok=True)
    for name in args.names or NETS:
        (RECORDS / f"{name}.json").write_text(json.dumps(measure(name, args.seeds, args.bits), indent=1) + "\n")
    records = [json.loads(path.read_text()) for path in sorted(RECORDS.glob("*.json"))]
    print(table([record for record in records if "rows" in record]))


if __name__ == "__main__":
    main()
