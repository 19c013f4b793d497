"""Run the model that lies beside this file. Needs numpy and its runtime (onnxruntime for model.onnx), nothing else.

    python infer.py                        describe the model and run it on random numbers
    python infer.py samples.npy            run it on samples of yours: shape (N, ...), or one sample
    python infer.py samples.npz            the same for several inputs: an array (N, ...) under the name of each
    python infer.py --threshold 0.8 0.95   models with early exits: when each of them answers
    python infer.py --verify KEY.pub       check the signature of this folder first (needs the package cryptography)

card.json, if it lies here too, gives the names of the classes, the thresholds and what the figures were taken on. With
boxes.py the outputs of a detector become boxes.
From Python: `from infer import Model; print(Model().predict(sample))`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.minisig"
"""Digests of the files of a signed folder, and the signature of that list."""
SHOWN = 10
"""Maximum number of predictions printed; the rest is counted."""
SURE = 0.25
"""Boxes with a lower score are not printed."""


class Input(NamedTuple):
    """What one input takes."""

    name: str
    dtype: Any
    shape: tuple[Any, ...]
    """Of one sample; sizes that are free have names."""

    def fits(self, sizes: tuple[int, ...]) -> bool:
        """Whether this is the shape of one sample."""
        same = (not isinstance(want, int) or want == got for want, got in zip(self.shape, sizes, strict=False))
        return len(sizes) == len(self.shape) and all(same)

    def single(self, sample: np.ndarray) -> np.ndarray:
        """One sample, given with or without a batch dimension of 1, as the session takes it."""
        shape = np.shape(sample)
        if not self.fits(shape) and len(shape) and shape[0] == 1:
            shape = shape[1:]
        if not self.fits(shape):
            raise ValueError(
                f"the model takes samples{self._named} of shape {_shape(self.shape)}, got {np.shape(sample)}"
            )
        return np.ascontiguousarray(sample, self.dtype).reshape(1, *shape)

    def many(self, data: np.ndarray) -> np.ndarray:
        """Samples (N, ...) of an array that holds some or one."""
        for array in (data, data[None]):
            if self.fits(array.shape[1:]) and len(array):
                return array
        raise ValueError(
            f"the model takes samples{self._named} of shape {_shape(self.shape)}, got an array of {data.shape}"
        )

    def random(self, n: int, seed: int) -> np.ndarray:
        """Standard normal numbers, ones where they are integers (ids, masks); sizes that are free become 1."""
        sizes = (n, *(s if isinstance(s, int) else 1 for s in self.shape))
        if not np.issubdtype(self.dtype, np.floating):
            return np.ones(sizes, self.dtype)
        return np.random.default_rng(seed).standard_normal(sizes).astype(self.dtype)

    @property
    def _named(self) -> str:
        return "" if self.name == "input" else f" of {self.name!r}"


class Prediction(NamedTuple):
    """What one sample gives."""

    output: Any
    """Of the network, without the batch dimension; logits (n_classes,) for a classification. Of several outputs a
    mapping from their names. Of a detector boxes, scores and labels (see boxes.py)."""
    exit: int | None
    """Number of the early exit that answered, from 0; the last one is the network's own output. None without exits."""
    ms: float
    """Wall time of this call."""


class _OnnxFile:
    """A file in an ONNX Runtime session on the CPU."""

    def __init__(self, content: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs = [Input(i.name, _DTYPES[i.type], tuple(i.shape[1:])) for i in session.get_inputs()]
        self.outputs = {o.name: f"{o.type[7:-1]} {_shape(o.shape)}" for o in session.get_outputs()}
        self.options = [i.name for i in session.get_overridable_initializers()]
        self._session = session

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """Inputs by name to outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, feed), strict=True))


class _OtherFile:
    """A file that session.py loads, which lies beside this file: one without exits."""

    def __init__(self, content: bytes, threads: int) -> None:
        sys.dont_write_bytecode = True  # a signed folder holds nothing else
        from session import Session  # type: ignore[import-not-found]

        self.run = Session(content, threads)
        specs = self.run.inputs.items()
        self.inputs = [Input(name, np.dtype(spec.dtype).type, tuple(spec.shape[1:])) for name, spec in specs]
        self.outputs = dict.fromkeys(self.run.outputs, "")
        self.options: list[str] = []


class Model:
    """The file in its runtime on the CPU; one sample at a time, as its latency was taken."""

    def __init__(self, folder: str | Path = HERE, threads: int = 1) -> None:
        card = Path(folder) / "card.json"
        path = min(Path(folder).glob("model.*"), default=Path(folder) / "model.onnx")
        content = path.read_bytes()
        self.card = _read_card(card)
        expected = self.card.get("point", {}).get("sha256")
        if expected not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError(f"{path}: not the file that card.json speaks of: its sha256 is another one")
        is_onnx = path.suffix == ".onnx"
        try:
            self._file = _OnnxFile(content, threads) if is_onnx else _OtherFile(content, threads)
        except Exception as problem:  # onnxruntime has no common base class for its errors
            who = "ONNX Runtime" if is_onnx else "its runtime"
            raise ValueError(f"{path}: {who} cannot load it: {' '.join(str(problem).split())[:300]}") from None
        self.inputs = self._file.inputs
        self.thresholds = sorted(
            (name for name in self._file.options if name.startswith("threshold")),
            key=lambda name: int(name.removeprefix("threshold")),
        )
        """Names of the inputs that hold the thresholds of the early exits; they have defaults in the file."""
        task = self.card.get("task", {})
        self.classes: list[str] = list(task.get("classes") or [])
        self.is_classification = bool(task.get("logits", True))
        """Whether the outputs are logits of classes."""
        self.decoder = _decoder(task.get("decoder") or {})

    def predict(self, sample: Any, thresholds: list[float] | None = None) -> Prediction:
        """Run one sample.

        Args:
            sample: an array, with or without a batch dimension of 1; for several inputs a mapping from their names.
            thresholds: confidence (largest softmax probability) above which each early exit answers, 0 to 1;
                None: those in the file.
        """
        given = self._by_name(sample)
        feed = {i.name: i.single(given[i.name]) for i in self.inputs}
        if thresholds is not None:
            if len(thresholds) != len(self.thresholds):
                raise ValueError(f"the model has {len(self.thresholds)} thresholds, got {len(thresholds)}")
            feed |= {n: np.array(v, np.float32) for n, v in zip(self.thresholds, thresholds, strict=True)}
        started = time.perf_counter()
        results = dict(self._file.run(feed))
        ms = (time.perf_counter() - started) * 1e3
        index = results.pop("exit_index", None)
        if self.decoder is not None:
            return Prediction(self.decoder(results)[0], None, ms)
        outputs = {name: value[0] for name, value in results.items()}
        output = outputs if len(outputs) > 1 else next(iter(outputs.values()))
        return Prediction(output, None if index is None else int(index), ms)

    def samples(self, data: Any) -> list[dict[str, np.ndarray]]:
        """Single samples, inputs by name, of an array that holds some or one; of several inputs of a mapping of arrays.

        Raises:
            ValueError: it fits neither one sample nor many.
        """
        given = self._by_name(data)
        many = {i.name: i.many(given[i.name]) for i in self.inputs}
        if len(sizes := {len(array) for array in many.values()}) > 1:
            raise ValueError(f"all inputs must hold the same number of samples, got {sorted(sizes)}")
        return [{name: array[k] for name, array in many.items()} for k in range(sizes.pop())]

    def random(self, n: int, seed: int) -> list[dict[str, np.ndarray]]:
        """Made-up samples, see `Input.random`."""
        return self.samples({i.name: i.random(n, seed + k) for k, i in enumerate(self.inputs)})

    def _by_name(self, given: Any) -> dict[str, np.ndarray]:
        names = [i.name for i in self.inputs]
        if not hasattr(given, "keys"):
            if len(names) > 1:
                raise ValueError(
                    f"the model has the inputs {', '.join(names)}: give a mapping of arrays, or a .npz file"
                )
            return {names[0]: np.asarray(given)}
        if missing := [name for name in names if name not in given]:
            raise ValueError(f"the model has the inputs {', '.join(names)}; {missing[0]!r} is missing")
        return {name: np.asarray(given[name]) for name in names}

    def exit_name(self, index: int) -> str:
        """Where an exit is, as far as the card says."""
        exits = self.card.get("exits") or []
        if index == len(self.thresholds):
            return "the end of the network"
        return f"exit {index}" + (f" ({exits[index]['place']})" if index < len(exits) else "")

    def label(self, output: Any) -> str:
        """The prediction in words: the most probable classes, boxes, or the figures of the outputs."""
        if self.decoder is not None:
            rows = [*zip(output.labels.tolist(), output.scores.tolist(), output.boxes.tolist(), strict=True)]
            some = [
                f"{self._class(i)} {score:.1%} {_shape(np.round(box, 1))}" for i, score, box in rows if score >= SURE
            ]
            return ", ".join(some) or f"no box with a score of {SURE:.0%} or more"
        if isinstance(output, dict):
            return "; ".join(f"{name}: {self.label(value)}" for name, value in output.items())
        if not self.is_classification or output.ndim != 1:
            flat = output.astype(np.float64).ravel()
            return f"output {_shape(output.shape)}, from {flat.min():.4g} to {flat.max():.4g}, mean {flat.mean():.4g}"
        powers = np.exp(output.astype(np.float64) - output.max())
        probabilities = powers / powers.sum()
        best = np.argsort(-probabilities, kind="stable")[:3]
        return ", ".join(f"{self._class(i)} {probabilities[i]:.1%}" for i in best)

    def describe(self) -> str:
        """Inputs, outputs, early exits, classes and preprocessing in a few lines."""
        lines = [f"input   {i.name}: {np.dtype(i.dtype).name} {_shape((1, *i.shape))}" for i in self.inputs]
        lines += [f"output  {name}: {what}".rstrip(": ") for name, what in self._file.outputs.items()]
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


def _decoder(settings: dict[str, Any]) -> Any:
    """What makes boxes of the outputs of a detector; None elsewhere."""
    if not settings or not (HERE / "boxes.py").exists():
        return None
    sys.path.insert(0, str(HERE))
    return importlib.import_module("boxes").Decoder(**settings)


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _read_card(path: Path) -> dict[str, Any]:
    """What the card says; nothing where there is none."""
    if not path.exists():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{path}: damaged: {problem}") from None
    if not isinstance(card, dict) or not all(isinstance(card.get(key, {}), dict) for key in ("point", "task")):
        raise ValueError(f"{path}: damaged: it must hold an object, with objects 'point' and 'task'")
    return card


def verify(folder: Path, public_key: str) -> str:
    """Check that the files of a folder are those that the owner of a key signed; return the signed remark.

    Args:
        folder: with SHA256SUMS, its signature, and the files.
        public_key: a file of minisign or its second line.

    Raises:
        ValueError: the signature is not of this key, or a file was changed, added or taken away.
        OSError: a file cannot be read.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise ValueError("checking a signature needs the package cryptography: pip install cryptography") from None
    text = Path(public_key).read_text(encoding="utf-8") if Path(public_key).is_file() else public_key
    key = _decoded(text.strip().splitlines()[-1] if text.strip() else "", 42, "the public key")
    for name in (SUMS, SIGNATURE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: not signed: it has no {name}")
    sums = (folder / SUMS).read_bytes()
    lines = (folder / SIGNATURE).read_text(encoding="utf-8").splitlines()
    if len(lines) != 4 or not lines[2].startswith("trusted comment: "):
        raise ValueError(f"{folder / SIGNATURE}: not a signature of minisign")
    remark = lines[2].removeprefix("trusted comment: ")
    signature, overall = _decoded(lines[1], 74, "the signature"), _decoded(lines[3], 64, "the signature")
    if signature[2:10] != key[2:10]:
        raise ValueError(f"{folder}: signed with another key than the one given")
    message = hashlib.blake2b(sums).digest() if signature[:2] == b"ED" else sums
    try:
        public = Ed25519PublicKey.from_public_bytes(key[10:])
        public.verify(signature[10:], message)
        public.verify(overall, signature[10:] + remark.encode())
    except InvalidSignature:
        raise ValueError(
            f"{folder}: the signature does not match: the folder was changed after it was signed"
        ) from None
    listed = [line.split("  ", 1) for line in sums.decode().splitlines()]
    for digest, name in listed:
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{folder / name}: changed after it was signed")
    if extra := sorted({path.name for path in folder.iterdir()} - {name for _, name in listed} - _UNSIGNED):
        raise ValueError(f"{folder / extra[0]}: not among the files that were signed; remove it")
    return remark


_UNSIGNED = {SUMS, SIGNATURE}


def _decoded(line: str, length: int, what: str) -> bytes:
    try:
        raw = base64.b64decode(line, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != length:
        raise ValueError(f"{what} is not one of minisign (Ed25519)")
    return raw


def _shape(sizes: Any) -> str:
    return f"({', '.join(map(str, sizes))})"


def _load_samples(path: str) -> Any:
    try:
        data = np.load(path, allow_pickle=False)
        if not isinstance(data, np.ndarray):
            data = {name: data[name] for name in data.files}
    except OSError:
        raise
    except Exception as problem:  # numpy parses the header as Python: SyntaxError, TokenError and others
        raise ValueError(f"{path}: not an array in the format .npy: {problem}") from None
    found = [data] if isinstance(data, np.ndarray) else list(data.values())
    if not found or any(array.dtype.kind not in "fiub" for array in found):
        raise ValueError(f"{path}: must hold one array of numbers (.npz: one for each input)")
    return data


def main() -> None:
    """Describe the model, run it, say what it predicts and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="?", help="a .npy or .npz file; random numbers without it")
    parser.add_argument("--threshold", type=float, nargs="+", help="one for each early exit; those of the file without")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    parser.add_argument("--verify", metavar="KEY.pub", help="check the signature of this folder with this public key")
    arguments = parser.parse_args()
    if arguments.verify is not None:
        print(f"signature is right: {verify(HERE, arguments.verify)}\n")
    model = Model(threads=arguments.threads)
    print(model.describe())
    given = arguments.samples
    samples = model.random(1, arguments.seed) if given is None else model.samples(_load_samples(given))
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, MemoryError) as problem:
        sys.exit(f"error: {problem}")
