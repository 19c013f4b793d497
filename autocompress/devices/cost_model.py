"""The latency model: every kernel costs a non-negative linear function of its work, the net costs their sum.

Fitted by non-negative least squares on relative errors, so that a 0.1 ms net counts as much as a 20 ms net.
On few points this additive form is as good as or better than a roofline, and the fit is convex.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autocompress.devices.profile import ANY, DeviceProfile, Dtype, OpCost
from autocompress.errors import DeviceError
from autocompress.runtimes.workload import Op, Workload

_TERMS = tuple(OpCost.model_fields)
_N_TILING = 3
"""Number of the last terms, which say how well a product suits the tiles of the kernel."""
_UNALIGNED = "_unaligned"
_OPTIONAL = {"view", "epilogue"}
"""Kinds that cost nothing in a profile that does not know them."""
_STEM_CHANNELS = 4
_PRODUCTS = {"conv1x1", "conv", "depthwise", "grouped", "conv_transpose", "linear", "lstm", "gru", "rnn"}
_GEMM = "_gemm"
_FITTED_FINER = {"linear_float", "conv_gemm", "conv1x1_gemm", "conv_1d_gemm", "dequantize_weights"}
"""Those of the finer kinds that calibration tells apart, beside those of other dimensions than two."""
_DIMENSIONS = {1: "_1d", 3: "_3d"}
_LOOK_UP = "embedding"
_RECURRENT = ("lstm", "gru", "rnn")
_YOUNG = {"conv_transpose", _LOOK_UP, *_RECURRENT, "batch_norm", "instance_norm", "group_norm"}
_YOUNG |= {"resize", "resize_linear", "resize_blocked", "resize_linear_blocked"}
"""Kinds that nobody counted when profiles were fitted that hold one cost for any kind: it does not stand for them."""
_RIDGE = 0.02
_TILE_OUTPUTS = 6
_TILE_BLOCKS = 4
_ROBUST_ERROR = 0.15
_ROBUST_ROUNDS = 4
_NEAREST: dict[str, tuple[str, ...]] = {
    "conv1x1": ("conv", "linear"),
    "conv": ("conv1x1", "linear"),
    "depthwise": ("grouped", "conv"),
    "grouped": ("conv", "depthwise"),
    "linear": ("conv1x1", "attention", "conv"),
    "attention": ("linear", "conv1x1"),
    "conv_transpose": ("conv", "conv1x1"),
    "lstm": ("gru", "rnn", "linear", "conv1x1", "conv"),
    "gru": ("lstm", "rnn", "linear", "conv1x1", "conv"),
    "rnn": ("gru", "lstm", "linear", "conv1x1", "conv"),
    "embedding": ("movement", "elementwise"),
    "pool": ("elementwise",),
    "resize": ("movement", "elementwise"),
    "resize_linear": ("resize", "movement", "elementwise"),
    "resize_blocked": ("resize", "movement", "elementwise"),
    "resize_linear_blocked": ("resize_linear", "movement", "elementwise"),
    "batch_norm": ("elementwise", "norm"),
    "instance_norm": ("norm", "softmax", "activation", "elementwise"),
    "group_norm": ("instance_norm", "norm", "softmax", "activation", "elementwise"),
    "gelu": ("activation", "softmax", "norm", "elementwise"),
    "activation": ("gelu", "softmax", "norm", "elementwise"),
    "softmax": ("activation", "norm", "elementwise"),
    "norm": ("softmax", "activation", "elementwise"),
    "movement": ("elementwise", "pool"),
    "layout": ("movement", "elementwise"),
    "quantize": ("dequantize", "elementwise"),
    "dequantize": ("quantize", "elementwise"),
    "elementwise": ("pool", "movement"),
    "other": ("activation", "norm", "elementwise"),
}


@dataclass(frozen=True, slots=True)
class LatencyEstimate:
    """A predicted latency with its interval."""

    latency_ms: float
    low_ms: float
    high_ms: float
    in_domain: bool
    """False if the profile lacks an operator kind of the net, so that the nearest kind was used, or if what the
    net computes had to be assumed."""
    missing: tuple[str, ...] = ()
    """The kinds it lacks, as "kind/dtype"."""
    assumptions: tuple[str, ...] = ()
    """Those of the workload."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is out of domain, each in one clause; nothing if it is not."""
        lacks = (f"the profile has no costs of its own for {', '.join(self.missing)}",) if self.missing else ()
        return (*lacks, *self.assumptions)


@dataclass(frozen=True, slots=True)
class LinearFit:
    """Coefficients found by `fit`, in the form a `DeviceProfile` holds."""

    run_overhead_us: float
    us_per_mb_beyond_cache: float
    latency: dict[str, dict[Dtype, OpCost]]


def cost_key(op: Op, block: int) -> str:
    """Kind under which the profile holds the op's cost.

    A depthwise (or dense fp32) convolution whose channels do not fit the runtime's blocks of `block` channels
    runs on slower kernels: "<kind>_unaligned".
    """
    return op.kind + _UNALIGNED if is_unaligned(op, block) else op.kind


def is_unaligned(op: Op, block: int) -> Any:
    """Whether the channels do not fit the runtime's blocks; an array where the op holds arrays."""
    if block == 1 or len(op.kernel) in _DIMENSIONS:  # kernels on blocks of channels are 2-D
        return False
    if op.kind in {"conv", "conv1x1"} and op.dtype == "float32":
        return (op.cin >= block) & (op.cin % 4 != 0)
    return op.cout % block != 0 if op.kind == "depthwise" else False


def finer_key(op: Op) -> str:
    """A finer kind of product, or "": a profile that holds its cost uses it.

    "conv_stem" has at most 4 input channels; "conv_3x3s1" is 3x3 with stride 1, where Winograd's algorithm applies;
    "<kind>_1d" and "<kind>_3d" are convolutions of so many dimensions; "linear_float" is an int8 product whose result
    stays a float; "<kind>_gemm" is an int8 convolution whose channels ONNX Runtime's own kernel does not take, so that
    its windows are copied first and a matrix product follows; "dequantize_weights" works on a constant. A profile
    without one of them lacks nothing, but for the number of dimensions.
    """
    if _is_gemm(op):
        return _finer(op, gemm=True)
    return "conv_stem" if _is_stem(op) else _below_stem(op)


def _below_stem(op: Op) -> str:
    """The finer kind of a product that is no stem."""
    return "conv_3x3s1" if _is_3x3s1(op) else _finer(op)


def _is_3x3s1(op: Op) -> Any:
    """By the bytes that are read: a residual that is added belongs to them; an array where the op holds arrays."""
    if op.kind != "conv" or op.kernel != (3, 3):
        return False
    return op.bytes_in / (op.cin * (1 if op.dtype == "int8" else 4)) < 3 * op.out_hw


def _is_stem(op: Op) -> Any:
    return op.cin <= _STEM_CHANNELS if op.kind == "conv" and len(op.kernel) == 2 else False


def _is_gemm(op: Op) -> Any:
    """See MlasConvSymPackWSize of ONNX Runtime."""
    if op.dtype != "int8" or op.kind not in {"conv", "conv1x1"} or len(op.kernel) == 3:
        return False
    return (op.cin % 4 != 0) | (op.cout % 8 != 0) | (op.cout < 16)


def _finer(op: Op, *, gemm: bool = False) -> str:
    if op.kind == "dequantize":
        return "dequantize_weights" if np.all(op.bytes_in == 0) else ""
    if op.kind == "linear" and op.dtype == "int8":
        return "linear_float" if np.all(op.bytes_out >= 4 * op.out_hw * op.cout) else ""
    if len(op.kernel) in _DIMENSIONS or gemm:
        return op.kind + _DIMENSIONS.get(len(op.kernel), "") + (_GEMM if gemm else "")
    return ""


def features(op: Op, block: int) -> tuple[float, ...]:
    """Work of an op in the order of `OpCost`; constants of ops other than products count as input.

    Resizing interpolates every value that it writes, however few it reads.
    """
    product = op.kind in _PRODUCTS
    bytes_in = op.bytes_in if product else op.bytes_in + op.bytes_read_weights
    return (
        1.0,
        op.padded_macs(block) / 1e6,
        0.0 if op.kind.startswith("resize") else bytes_in / 1e6,
        op.bytes_out / 1e6,
        op.bytes_weights / 1e6 if product else 0.0,
        op.patch_bytes / 1e6,
        *(_tiling(op, block) if product or op.kind == "attention" else (0.0, 0.0, 0.0)),
    )


def _tiling(op: Op, block: int) -> tuple[Any, Any, Any]:
    """How a product fits the tiles of its kernel, in the order of the last terms of `OpCost` and in their units.

    The images are taken to be square. The int8 kernels gather the inputs of a window first, in one step for each of
    its places, or for each of its rows where they are copied; they have no tiles that could fit badly.
    """
    if op.kind in _RECURRENT:
        return op.out_hw * op.groups / 1e6, 0.0, op.recurrent_macs / 1e6
    if op.kind == "conv_transpose":  # a product, whose result is then added up
        return 0.0, 0.0, 0.0
    window = math.prod(op.kernel)
    if op.dtype == "int8":
        steps = np.where(_is_gemm(op), window // op.kernel[-1], window) if op.kernel else window
        return op.out_hw * steps * (1 if op.kind == "depthwise" else op.groups) / 1e6, 0.0, 0.0
    if len(op.kernel) == 3:  # unrolled, then one product
        return 0.0, 0.0, 0.0
    blocks = -(-op.cout // block)
    tiles = -(-op.out_hw // _TILE_OUTPUTS)
    padded = op.padded_macs(block) / 1e6
    if op.kind == "depthwise":
        steps, lone = tiles * blocks * window, 0.0
    else:
        steps = tiles * -(-blocks // _TILE_BLOCKS) * op.cin * window * op.groups
        lone = padded * (blocks % _TILE_BLOCKS == 1) / blocks
    edge = padded / np.sqrt(np.maximum(op.out_hw, 1)) if window > 1 else 0.0
    return steps / 1e6, edge, lone


def megabytes_beyond(workload: Workload, cache_bytes: int | None) -> float:
    """Megabytes by which weights and peak activations exceed the cache; 0 if its size is unknown."""
    if cache_bytes is None:
        return 0.0
    weight_bytes = int(sum(op.bytes_read_weights for op in workload.ops))
    return max(0, weight_bytes + workload.peak_activation_bytes - cache_bytes) / 1e6


def _dtype(op: Op) -> Dtype:
    return "int8" if op.dtype == "int8" else "float32"


def _candidates(key: str) -> Iterable[str]:
    base = key.removesuffix(_UNALIGNED)
    yield key
    if base != key:
        yield base
    yield base + _UNALIGNED
    yield from _NEAREST.get(base, ())
    yield ANY


def _lookup(profile: DeviceProfile, key: str, dtype: Dtype) -> tuple[OpCost, bool]:
    """Cost of the kind, or of the nearest kind the profile has; second value False in the latter case.

    Public data hold no channels that do not fit the blocks: their cost in shipped profiles is a guess.
    """
    for name in (key, key.removesuffix(_UNALIGNED), ANY) if ANY in profile.latency and key not in _YOUNG else (key,):
        exact = profile.latency.get(name, {}).get(dtype)
        if exact is not None:
            return exact, not name.endswith(_UNALIGNED) or profile.degree == "full"
    other: Dtype = "float32" if dtype == "int8" else "int8"
    for wanted in (dtype, other):
        for name in _candidates(key):
            cost = profile.latency.get(name, {}).get(wanted)
            if cost is not None:
                return cost, False
    raise DeviceError(
        f"device {profile.name!r} has no latency coefficients for {key!r} or anything near it; "
        f"it has: {', '.join(sorted(profile.latency))}; calibrate the device again."
    )


def op_us(profile: DeviceProfile, op: Op) -> tuple[Any, set[str]]:
    """Microseconds of one op (an array where the op holds arrays), and what the profile lacks, as "kind/dtype".

    Raises:
        DeviceError: the profile has no kind that could stand for it.
    """
    if op.kind == "if":
        return profile.if_overhead_us, set()
    if op.kind in _OPTIONAL and op.kind not in profile.latency:
        return 0.0, set()
    dtype, values, missing = _dtype(op), features(op, profile.channel_block), set()
    finer = {
        _finer(op, gemm=True): _is_gemm(op),
        "conv_stem": _is_stem(op),
        "conv_3x3s1": _is_3x3s1(op),
        _finer(op): True,
    }
    known = {key: where for key, where in finer.items() if dtype in profile.latency.get(key, {})}
    time_us: Any = 0.0
    left: Any = True
    for key, where in {op.kind + _UNALIGNED: is_unaligned(op, profile.channel_block), **known, op.kind: True}.items():
        here = np.logical_and(left, where)
        if np.any(here):
            cost, exact = _lookup(profile, key, dtype)
            own = sum(getattr(cost, term) * value for term, value in zip(_TERMS, values, strict=True))
            time_us = own if np.all(here) else np.where(here, own, time_us)
            missing |= set() if exact else {f"{key}/{dtype}"}
            left = np.logical_and(left, np.logical_not(here))
    if len(op.kernel) in _DIMENSIONS and not known:
        missing.add(f"{_finer(op)}/{dtype}")
    return time_us, missing


def predict(profile: DeviceProfile, workload: Workload) -> LatencyEstimate:
    """Predict the latency of one inference on the profile's device, runtime and thread count.

    Raises:
        DeviceError: the profile has no kind that could stand for one of the operators.
    """
    beyond = megabytes_beyond(workload, profile.cache_bytes)
    total_us = profile.run_overhead_us + profile.us_per_mb_beyond_cache * beyond
    missing: set[str] = set()
    in_format: dict[Dtype, Any] = {"float32": 0.0, "int8": 0.0}
    for op in workload.ops:
        time_us, lacking = op_us(profile, op)
        total_us += time_us
        missing |= lacking
        if op.kind in _PRODUCTS:
            in_format[_dtype(op)] += time_us
    latency_ms, error = total_us / 1e3, _error(profile, in_format)
    return LatencyEstimate(
        latency_ms=latency_ms,
        low_ms=latency_ms / (1 + error),
        high_ms=latency_ms * (1 + error),
        in_domain=not missing and not workload.assumptions,
        missing=tuple(sorted(missing)),
        assumptions=workload.assumptions,
    )


def _error(profile: DeviceProfile, in_format: Mapping[Dtype, Any]) -> Any:
    """Half width of the interval as a share: that of each number format, by the time of its products."""
    total = sum(in_format.values())
    mixed = sum(time_us * profile.error_of(dtype) for dtype, time_us in in_format.items())
    return np.where(total > 0, mixed / np.where(total > 0, total, 1.0), profile.expected_error)[()]


def per_op_ms(profile: DeviceProfile, workload: Workload) -> list[tuple[str, float]]:
    """Predicted milliseconds of every op by name, in order, without the fixed cost of the call.

    The cost of exceeding the cache is shared out by the bytes each op moves.
    """
    beyond = megabytes_beyond(workload, profile.cache_bytes) * profile.us_per_mb_beyond_cache
    share = beyond / max(1, sum(op.bytes_moved for op in workload.ops))
    return [(op.name, (op_us(profile, op)[0] + share * op.bytes_moved) / 1e3) for op in workload.ops]


def fit(
    measured: Sequence[tuple[Workload, float]],
    channel_block: int = 8,
    cache_bytes: int | None = None,
    ridge: float = _RIDGE,
    *,
    tiling: bool = False,
) -> LinearFit:
    """Fit the coefficients to measured latencies (ms) by non-negative least squares on relative errors.

    Points that stay far off are weighted down (a few rounds of re-weighting), and a small `ridge` penalty
    shares a cost among terms that always occur together. Ops of kind "if" are not fitted. The terms of the tiles
    and finer kinds are fitted with `tiling` only: they need points with many shapes.

    Raises:
        DeviceError: no points, or a latency that is not a positive number.
    """
    if not measured or any(not np.isfinite(ms) or ms <= 0 for _, ms in measured):
        raise DeviceError("a latency fit needs at least one measured point, each with a positive latency in ms.")
    keys = sorted({_column(op, channel_block, tiling) for work, _ in measured for op in work.ops if op.kind != "if"})
    place = {key: 2 + k * len(_TERMS) for k, key in enumerate(keys)}
    matrix = np.zeros((len(measured), 2 + len(keys) * len(_TERMS)))
    for row, (work, ms) in enumerate(measured):
        matrix[row, :2] = 1.0, megabytes_beyond(work, cache_bytes)
        for op in work.ops:
            if op.kind != "if":
                start = place[_column(op, channel_block, tiling)]
                matrix[row, start : start + len(_TERMS)] += features(op, channel_block)
        matrix[row] /= ms * 1e3
    if not tiling:
        for start in place.values():
            matrix[:, start + len(_TERMS) - _N_TILING : start + len(_TERMS)] = 0.0
    solution = _robust_nnls(matrix, ridge)
    return LinearFit(float(solution[0]), float(solution[1]), _costs(keys, place, solution))


def _robust_nnls(relative: npt.NDArray[np.float64], ridge: float) -> npt.NDArray[np.float64]:
    """Solve `relative @ x = 1` for x >= 0, weighting rows down whose error stays above a limit."""
    from scipy.optimize import nnls

    n_rows, n_columns = relative.shape
    norm = np.linalg.norm(relative, axis=0)
    used = norm > 0
    scaled = relative[:, used] / norm[used]
    penalty = ridge * np.eye(scaled.shape[1])
    weight = np.ones(n_rows)
    solution = np.zeros(n_columns)
    for _ in range(_ROBUST_ROUNDS):
        rows = np.vstack([scaled * weight[:, None], penalty])
        target = np.concatenate([weight, np.zeros(scaled.shape[1])])
        found = nnls(rows, target, maxiter=100 * n_columns)[0]
        error = np.abs(scaled @ found - 1)
        weight = np.sqrt(np.minimum(1.0, _ROBUST_ERROR / np.maximum(error, 1e-9)))
        solution[used] = found / norm[used]
    return solution


def _column(op: Op, block: int, finer: bool) -> tuple[str, Dtype]:
    keys = (finer_key(op), _below_stem(op)) if finer else ()
    fitted = (key for key in keys if key in _FITTED_FINER or key.endswith(tuple(_DIMENSIONS.values())))
    return next(fitted, cost_key(op, block)), _dtype(op)


def _costs(
    keys: Sequence[tuple[str, Dtype]],
    place: Mapping[tuple[str, Dtype], int],
    solution: npt.NDArray[np.float64],
) -> dict[str, dict[Dtype, OpCost]]:
    latency: dict[str, dict[Dtype, OpCost]] = {}
    for key in keys:
        values = solution[place[key] : place[key] + len(_TERMS)]
        named = {term: max(0.0, float(value)) for term, value in zip(_TERMS, values, strict=True)}
        latency.setdefault(key[0], {})[key[1]] = OpCost(**named)
    return latency


def relative_errors(profile: DeviceProfile, measured: Sequence[tuple[Workload, float]]) -> list[float]:
    """Return (predicted - measured) / measured of each point."""
    return [predict(profile, work).latency_ms / ms - 1 for work, ms in measured]
