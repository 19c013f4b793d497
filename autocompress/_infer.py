"""Run model.onnx, which lies beside this file. Needs numpy and onnxruntime, nothing else.

    python infer.py                        describe the model and run it on random numbers
    python infer.py samples.npy            run it on samples of yours: shape (N, ...), or one sample
    python infer.py --threshold 0.8 0.95   models with early exits: when each of them answers

card.json, if it lies here too, gives the names of the classes, the thresholds and what the figures were taken on.
From Python: `from infer import Model; print(Model().predict(sample))`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
SHOWN = 10
"""So many predictions are printed; the rest is counted."""


class Prediction(NamedTuple):
    """What one sample gives."""

    output: np.ndarray
    """Of the network, without the batch dimension; logits (n_classes,) for a classification."""
    exit: int | None
    """Number of the early exit that answered, from 0; the last one is the network's own output. None without exits."""
    ms: float
    """Wall time of this call."""


class Model:
    """The file in an ONNX Runtime session on the CPU; one sample at a time, as its latency was taken."""

    def __init__(self, folder: str | Path = HERE, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        path, card = Path(folder) / "model.onnx", Path(folder) / "card.json"
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.card: dict[str, Any] = json.loads(card.read_text(encoding="utf-8")) if card.exists() else {}
        self.input = self.session.get_inputs()[0]
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}[
            self.input.type
        ]
        self.shape = tuple(self.input.shape[1:])
        """Of one sample."""
        self.thresholds = sorted(
            (i.name for i in self.session.get_overridable_initializers() if i.name.startswith("threshold")),
            key=lambda name: int(name.removeprefix("threshold")),
        )
        """Names of the inputs that hold the thresholds of the early exits; they have defaults in the file."""
        task = self.card.get("task", {})
        self.classes: list[str] = list(task.get("classes") or [])
        self.is_classification = task.get("kind", "classification") == "classification"

    def predict(self, sample: np.ndarray, thresholds: list[float] | None = None) -> Prediction:
        """Run one sample.

        Args:
            sample: shape `self.shape`, with or without a batch dimension of 1.
            thresholds: confidence (largest softmax probability) above which each early exit answers, 0 to 1;
                None: those in the file.
        """
        feed = {self.input.name: np.ascontiguousarray(sample, self.dtype).reshape(1, *self._sizes(sample))}
        if thresholds is not None:
            if len(thresholds) != len(self.thresholds):
                raise ValueError(f"the model has {len(self.thresholds)} thresholds, got {len(thresholds)}")
            feed |= {n: np.array(v, np.float32) for n, v in zip(self.thresholds, thresholds, strict=True)}
        started = time.perf_counter()
        results = dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        ms = (time.perf_counter() - started) * 1e3
        index = results.pop("exit_index", None)
        return Prediction(next(iter(results.values()))[0], None if index is None else int(index), ms)

    def samples(self, data: np.ndarray) -> np.ndarray:
        """Bring an array to shape (N, ...).

        Raises:
            ValueError: it fits neither one sample nor many.
        """
        for array in (data, data[None]):
            if self._fits(array.shape[1:]) and len(array):
                return array
        raise ValueError(f"the model takes samples of shape {_shape(self.shape)}, got an array of {data.shape}")

    def random(self, n: int, seed: int) -> np.ndarray:
        """Standard normal numbers in the shape of `n` samples; sizes that are free become 1."""
        sizes = [s if isinstance(s, int) else 1 for s in self.shape]
        return np.random.default_rng(seed).standard_normal((n, *sizes)).astype(self.dtype)

    def exit_name(self, index: int) -> str:
        """Where an exit is, as far as the card says."""
        exits = self.card.get("exits") or []
        if index == len(self.thresholds):
            return "the end of the network"
        return f"exit {index}" + (f" ({exits[index]['place']})" if index < len(exits) else "")

    def label(self, output: np.ndarray) -> str:
        """The prediction in words: the most probable classes, or the figures of the output."""
        if not self.is_classification or output.ndim != 1:
            flat = output.astype(np.float64).ravel()
            return f"output {_shape(output.shape)}, from {flat.min():.4g} to {flat.max():.4g}, mean {flat.mean():.4g}"
        powers = np.exp(output.astype(np.float64) - output.max())
        probabilities = powers / powers.sum()
        best = np.argsort(-probabilities, kind="stable")[:3]
        return ", ".join(f"{self._class(i)} {probabilities[i]:.1%}" for i in best)

    def describe(self) -> str:
        """Inputs, outputs, early exits, classes and preprocessing in a few lines."""
        kind = np.dtype(self.dtype).name
        lines = [f"input   {self.input.name}: {kind} (1, {', '.join(map(str, self.shape))})"]
        lines += [f"output  {o.name}: {o.type[7:-1]} {_shape(o.shape)}" for o in self.session.get_outputs()]
        known = self.card.get("exits") or []
        for i, name in enumerate(self.thresholds):
            default = f", default {known[i]['threshold']:g}" if i < len(known) else ""
            lines.append(f"exit    {self.exit_name(i)} answers above a confidence of {name}{default}")
        task = self.card.get("task", {})
        if self.classes:
            lines.append(
                f"classes {len(self.classes)}: {', '.join(self.classes[:10])}{', ...' * (len(self.classes) > 10)}"
            )
        lines.append(f"prepare {task.get('preprocessing') or 'inputs as in training; the task says nothing about it'}")
        return "\n".join(lines)

    def _class(self, index: int) -> str:
        return self.classes[index] if index < len(self.classes) else f"class {index}"

    def _fits(self, sizes: tuple[int, ...]) -> bool:
        same = (not isinstance(want, int) or want == got for want, got in zip(self.shape, sizes, strict=False))
        return len(sizes) == len(self.shape) and all(same)

    def _sizes(self, sample: np.ndarray) -> tuple[int, ...]:
        shape = np.shape(sample)
        if not self._fits(shape) and len(shape) and shape[0] == 1:
            shape = shape[1:]
        if not self._fits(shape):
            raise ValueError(f"the model takes samples of shape {_shape(self.shape)}, got {np.shape(sample)}")
        return shape


def _shape(sizes: Any) -> str:
    return f"({', '.join(map(str, sizes))})"


def main() -> None:
    """Describe the model, run it, say what it predicts and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="?", help="a .npy file; random numbers without it")
    parser.add_argument("--threshold", type=float, nargs="+", help="one for each early exit; those of the file without")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    arguments = parser.parse_args()
    model = Model(threads=arguments.threads)
    print(model.describe())
    data = model.random(1, arguments.seed) if arguments.samples is None else np.load(arguments.samples)
    samples = model.samples(data)
    model.predict(samples[0], arguments.threshold)  # the first call is slower
    predictions = [model.predict(sample, arguments.threshold) for sample in samples]
    print(f"\n{len(samples)} sample(s), {'random numbers' if arguments.samples is None else arguments.samples}:")
    for i, prediction in enumerate(predictions[:SHOWN]):
        where = "" if prediction.exit is None else f", left at {model.exit_name(prediction.exit)}"
        print(f"{i:>4}: {model.label(prediction.output)} ({prediction.ms:.3f} ms{where})")
    if len(predictions) > SHOWN:
        print(f"      and {len(predictions) - SHOWN} more")
    for i in range(len(model.thresholds) + 1) if model.thresholds else ():
        print(f"left at {model.exit_name(i)}: {sum(p.exit == i for p in predictions) / len(predictions):.1%}")
    times = [prediction.ms for prediction in predictions]
    print(f"time per sample: median {np.median(times):.3f} ms, smallest {min(times):.3f} ms (wall clock, batch 1)")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError) as problem:
        sys.exit(f"error: {problem}")
