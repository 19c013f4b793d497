"""Activation ranges from calibration data, measured in ONNX Runtime, the reference of all runtimes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress.errors import CandidateError
from autocompress.graphs.quantizable import QuantPlan
from autocompress.runtimes.adapters.onnxruntime.inside import with_inner_tensors
from autocompress.runtimes.base import pieces
from autocompress.tasks.interface import Arrays, n_samples, take

Observer = Literal["minmax", "percentile", "entropy", "mse"]

_BINS = 2048
_SAMPLES = 2**17  # values of one tensor and one batch that enter its histogram
_LEVELS = 255
_USUAL = 0.95
_FAR = 4.0
_TOGETHER = 16
"""So many samples at once: where a tensor does not show whose value is whose, they count as one sample."""
_PERCENTILE = 0.9999
_SHRINKS: tuple[float, ...] = tuple(np.linspace(1.0, 0.2, 81).tolist())

Floats = NDArray[np.float64]
Batch = NDArray[Any] | Arrays


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Affine uint8 code of a tensor: value = (code - zero_point) * scale, with code in 0..255."""

    scale: float
    zero_point: int


def activation_range(low: float, high: float) -> ActivationRange:
    """Return the code that covers `low`..`high` and holds zero exactly.

    A tensor that is constantly zero gets the scale 1/255: any positive one is right, and a tiny one would
    make the int32 bias of the next layer overflow.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low
    scale = float(np.float32(span / _LEVELS)) if span > 0.0 else 0.0
    if scale < float(np.finfo(np.float32).tiny):
        return ActivationRange(1.0 / _LEVELS, 0)
    return ActivationRange(scale, int(np.clip(np.rint(-low / scale), 0, _LEVELS)))


def observe(
    model: onnx.ModelProto,
    plan: QuantPlan,
    batches: Iterable[Batch],
    observer: Observer,
    notes: list[str] | None = None,
) -> dict[str, ActivationRange]:
    """Run calibration data through `model` and choose the range of every planned tensor.

    Args:
        model: the fp32 graph the plan was made for.
        plan: what to quantise.
        batches: calibration inputs by name, or the lone one, each (N, ...). All observers but "minmax" read them twice.
        observer: all leave out samples that reach beyond four times what 95 % of the samples reach, so that a broken
            sample costs the others no resolution. "minmax" covers the rest; "percentile" drops the outer 0.01 % of it;
            "entropy" minimises the KL divergence (S. Migacz, "8-bit Inference with TensorRT", GTC 2017); "mse"
            minimises the squared error (Banner et al., "Post-training 4-bit quantization of convolution networks",
            2019).
        notes: gets a sentence about samples that were left out.

    Returns:
        One range per planned tensor; pooled and reshaped tensors share their source's range.

    Raises:
        CandidateError: there is no calibration data, or an activation is not finite.
    """
    if not plan.activations:
        return {}
    data: Sequence[Batch] = batches if isinstance(batches, Sequence) else list(batches)
    if not len(data):
        raise CandidateError("quantisation needs calibration data, but there is no batch")
    tap = _Tap(model, plan.sources)
    seen = _extremes(tap, data)
    extremes = {name: found.usual() for name, found in seen.items()}
    if notes is not None:
        notes += _left_out(seen)
    limits = {name: activation_range(low, high) for name, (low, high) in extremes.items()}
    if observer != "minmax":
        histograms = _histograms(tap, data, extremes)
        choose = {"percentile": _percentile, "entropy": _entropy, "mse": _mse}[observer]
        limits = {name: activation_range(*choose(histograms[name], *extremes[name])) for name in histograms}
    return {activation.tensor: limits[activation.source] for activation in plan.activations}


def outlying(reach: NDArray[Any]) -> NDArray[np.bool_]:
    """Which samples reach farther than the others by a factor; never more than one in twenty.

    Args:
        reach: largest magnitude of each sample, (N,).
    """
    usual = float(np.sort(reach)[int(_USUAL * (len(reach) - 1))])
    return reach > _FAR * usual if usual > 0.0 else np.zeros(len(reach), bool)


class _Extremes:
    """Smallest and largest value of one tensor in each sample."""

    def __init__(self) -> None:
        self._lows: list[NDArray[np.float32]] = []
        self._highs: list[NDArray[np.float32]] = []

    def add(self, value: NDArray[np.float32], n_samples: int) -> None:
        """Look at a batch; where its samples cannot be told apart it counts as one."""
        rows = value.reshape(n_samples if len(value) % n_samples == 0 else 1, -1)
        self._lows.append(rows.min(1))
        self._highs.append(rows.max(1))

    @property
    def outliers(self) -> NDArray[np.bool_]:
        """Which samples reach farther than the others by a factor; never more than one in twenty."""
        return outlying(np.maximum(np.abs(np.concatenate(self._lows)), np.abs(np.concatenate(self._highs))))

    def usual(self) -> tuple[float, float]:
        """What all samples that are no outliers lie between."""
        kept = ~self.outliers
        return float(np.concatenate(self._lows)[kept].min()), float(np.concatenate(self._highs)[kept].max())

    def reach(self) -> float:
        """The largest magnitude, outliers included."""
        return float(max(max(np.abs(part).max() for part in parts) for parts in (self._lows, self._highs)))


def _left_out(seen: Mapping[str, _Extremes]) -> list[str]:
    """A note on samples that set no range, by the tensor where they reach farthest beyond it."""
    far = [name for name, found in seen.items() if found.outliers.any()]
    if not far:
        return []
    ends = {name: max(map(abs, seen[name].usual())) for name in far}
    worst = max(far, key=lambda name: seen[name].reach() / max(ends[name], 1e-30))
    n = max(int(seen[name].outliers.sum()) for name in far)
    return [
        f"calibration: {n} of the samples set no ranges, their values are far beyond those of all others: "
        f"up to {seen[worst].reach():.3g} in {worst!r}, whose range ends at {ends[worst]:.3g}"
    ]


class _Tap:
    """A graph that returns inner tensors."""

    def __init__(self, graph: onnx.ModelProto, tensors: Sequence[str]) -> None:
        self._model = with_inner_tensors(graph, tensors)
        self._input = next(iter(self._model.inputs))
        self._names = [name for name in tensors if name not in self._model.inputs]
        self._tapped_inputs = [name for name in self._model.inputs if name in tensors]

    def run(self, batch: Batch) -> Iterator[tuple[str, NDArray[np.float32], int]]:
        """Yield each tapped tensor of one batch and the number of samples in it, perhaps in several pieces.

        Empty tensors are left out.
        """
        feed = batch if isinstance(batch, Mapping) else {self._input: np.ascontiguousarray(batch, dtype=np.float32)}
        yield from ((name, feed[name], len(feed[name])) for name in self._tapped_inputs if feed[name].size)
        if self._names:
            for piece in pieces(self._model, feed):
                values = self._model(piece)
                yield from ((name, values[name], n_samples(piece)) for name in self._names if values[name].size)


def _extremes(tap: _Tap, batches: Sequence[Batch]) -> dict[str, _Extremes]:
    found: dict[str, _Extremes] = {}
    for batch in batches:
        for start in range(0, n_samples(batch), _TOGETHER):
            piece = take(batch, slice(start, start + _TOGETHER))
            for name, value, n in tap.run(piece):
                if not np.isfinite(value).all():
                    raise CandidateError(f"activation {name!r} is not finite on the calibration data")
                found.setdefault(name, _Extremes()).add(value, n)
    return found


def _histograms(tap: _Tap, batches: Sequence[Batch], extremes: dict[str, tuple[float, float]]) -> dict[str, Floats]:
    counts = {name: np.zeros(_BINS) for name in extremes}
    for batch in batches:
        for name, value, _ in tap.run(batch):
            low, high = extremes[name]
            step = (high - low) / _BINS
            # An odd stride, so that no channel or column of the tensor is left out.
            values = value.ravel()[:: max(value.size // _SAMPLES, 1) | 1]
            position = (values - low) / step if step > 0.0 else np.zeros(values.size)
            bins = np.clip(position, 0, _BINS - 1).astype(np.intp)
            counts[name] += np.bincount(bins, minlength=_BINS)
    return counts


def _centres(low: float, high: float) -> Floats:
    return low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS


def _percentile(counts: Floats, low: float, high: float) -> tuple[float, float]:
    """Drop the outer 0.01 %: all of it at the top when the tensor has no negative values."""
    share = np.cumsum(counts) / counts.sum()
    tail = (1.0 - _PERCENTILE) / (2.0 if low < 0.0 else 1.0)
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1.0 - tail))
    step = (high - low) / _BINS
    return (low + first * step if low < 0.0 else low), low + min(last + 1, _BINS) * step


def _codes(centres: Floats, code: ActivationRange) -> NDArray[np.intp]:
    codes: NDArray[np.intp] = np.clip(np.rint(centres / code.scale) + code.zero_point, 0, _LEVELS).astype(np.intp)
    return codes


def _mse(counts: Floats, low: float, high: float) -> tuple[float, float]:
    """Shrink both ends towards zero by one factor; take the factor with the least squared error."""
    centres = _centres(low, high)

    def error(factor: float) -> float:
        code = activation_range(low * factor, high * factor)
        restored = (_codes(centres, code) - code.zero_point) * code.scale
        return float(counts @ (centres - restored) ** 2)

    best: float = min(_SHRINKS, key=error)
    return low * best, high * best


def _entropy(counts: Floats, low: float, high: float) -> tuple[float, float]:
    """Like `_mse`, with the divergence between the clipped and the quantised distribution."""
    centres = _centres(low, high)

    def divergence(factor: float) -> float:
        code = activation_range(low * factor, high * factor)
        inside = np.flatnonzero((centres >= low * factor) & (centres <= high * factor))
        if not len(inside) or not counts[inside].sum():
            return float("inf")
        first, last = inside[0], inside[-1] + 1
        kept = counts[first:last]
        clipped = kept.copy()
        clipped[0] += counts[:first].sum()
        clipped[-1] += counts[last:].sum()
        codes, filled = _codes(centres[first:last], code), kept > 0
        mass = np.bincount(codes, weights=kept, minlength=_LEVELS + 1)
        width = np.bincount(codes, weights=filled, minlength=_LEVELS + 1)
        spread = np.where(filled, mass[codes] / np.maximum(width[codes], 1.0), 0.0)
        p, q = clipped / clipped.sum(), spread / spread.sum()
        # Bins that only hold clipped mass have no counterpart; a floor keeps the divergence finite.
        return float(np.sum(p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], 1e-12))))

    best: float = min(_SHRINKS, key=divergence)
    return low * best, high * best
