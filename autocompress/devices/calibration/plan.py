"""The fixed plan of calibration: which small nets are timed, in fp32 and as deployed in int8."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from autocompress.devices.calibration import micro_nets as nets

PLAN_VERSION = 6
"""Raise it when a net of the plan changes."""
EXIT_PAIR = ("exits/none", "exits/two")
"""The same net without and with `micro_nets.EXIT_LEVELS` exit tests: gives the cost of a test, is not fitted."""

_FLOAT_ONLY = ("Add", "Mul", "LayerNormalization", "Softmax", "Gelu", "Sigmoid", "Transpose", "MatMul")
"""Operators that deployment leaves in fp32, but for an Add between convolutions."""


@dataclass(frozen=True, slots=True)
class MicroModel:
    """One point of the plan."""

    name: str
    make: partial[bytes]


def _width(rng: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform width: mostly a multiple of 8 or 16, sometimes of 4, sometimes odd."""
    width = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    step = int(rng.choice([16, 8, 8, 4, 1], p=[0.35, 0.25, 0.2, 0.1, 0.1]))
    return max(step, round(width / step) * step)


def _random_nets(rng: np.random.Generator, int8: bool) -> Iterator[partial[bytes]]:
    for _ in range(26):
        size = int(rng.choice([8, 16, 32]))
        width = _width(rng, 8, 2048 // size)
        widths = tuple(min(512, width * 2**k) for k in range(int(rng.integers(2, 5))))
        yield partial(nets.residual, widths, size, int8)
    for _ in range(22):
        size, expand = int(rng.choice([8, 16, 32])), int(rng.choice([1, 3, 6]))
        start = _width(rng, 8, 48)
        widths = tuple(start + 8 * (k // 2) * int(rng.integers(1, 4)) for k in range(int(rng.integers(3, 8))))
        kernel = int(rng.choice([3, 3, 3, 5]))
        yield partial(nets.inverted, widths, expand, size, int8, kernel)
    for _ in range(16):
        heads, tokens = int(rng.choice([2, 3, 4, 6])), int(rng.choice([16, 49, 64, 100]))
        width = heads * int(rng.choice([8, 16, 24, 32, 48]))
        depth, ratio = int(rng.integers(1, 3)), int(rng.choice([1, 2, 4]))
        yield partial(nets.transformer, tokens, width, heads, depth, int8, ratio, bool(rng.integers(0, 2)))
    for _ in range(8):
        widths = tuple(_width(rng, 8, 64) for _ in range(int(rng.integers(2, 5))))
        yield partial(nets.fire, widths, int(rng.choice([16, 32, 48])), int8)
    for _ in range(6):
        group, groups = int(rng.choice([8, 16, 16, 32])), int(rng.integers(2, 7))
        yield partial(nets.grouped, group, groups, int(rng.choice([8, 16, 32])), int(rng.integers(1, 4)), int8)
    for _ in range(8):
        length, kernel = int(rng.choice([32, 64, 128, 250])), int(rng.choice([3, 3, 5, 9]))
        yield partial(nets.temporal, _width(rng, 16, 128), length, kernel, int(rng.integers(2, 6)), int8)


def _grids(rng: np.random.Generator, int8: bool) -> Iterator[tuple[str, partial[bytes]]]:
    for kernel in (1, 3):
        for size, high in ((32, 96), (16, 192), (8, 384), (4, 512)):
            for _ in range(4):
                cin, cout = _width(rng, 8, high), _width(rng, 8, high)
                stem = bool(rng.integers(0, 2))
                make = partial(nets.chain, cin, cout, size, kernel, 3, int8, stem)
                yield f"chain{kernel}x{kernel}", make
    for rows, width in ((1, 64), (1, 256), (1, 512), (16, 128), (64, 64), (64, 192), (64, 384), (100, 100)):
        yield "mlp", partial(nets.mlp, rows, width, 3, int8)
    for op_type in _FLOAT_ONLY:
        for shape in ((1, 16, 64), (1, 64, 192), (1, 64, 768), (1, 256, 256)):
            yield op_type.lower(), partial(nets.repeat, op_type, shape, 4, int8)
    for width, size in ((8, 16), (16, 32), (48, 32), (64, 16)):
        yield "pool", partial(nets.pooled, width, size, int8)
    for width, size, length in ((256, 8, 4), (256, 4, 8), (512, 4, 4), (512, 2, 6), (384, 8, 3), (320, 8, 4)):
        yield "large", partial(nets.chain, width, width, size, 3, length, int8, True)
    for width in (48, 64, 100, 192):
        yield "patches", partial(nets.patches, width, int8)


def _field_nets(rng: np.random.Generator, int8: bool) -> Iterator[partial[bytes]]:
    """Larger nets: several megabytes of weights, images of 24 to 64 pixels, other activations than ReLU."""
    for number in range(18):
        size, expand = int(rng.choice([24, 32, 48, 64])), int(rng.choice([1, 3, 4, 6]))
        width, growth = int(rng.choice([8, 16, 24, 32])), float(rng.uniform(1.15, 1.5))
        widths = tuple(min(320, 8 * round(width * growth**k / 8)) for k in range(int(rng.integers(5, 12))))
        act, excite = ("Clip", "SiLU", "Clip")[number % 3], number % 4 == 1
        yield partial(nets.inverted, widths, expand, size, int8, int(rng.choice([3, 3, 5])), act, excite)
    for _ in range(6):
        size, width = int(rng.choice([24, 32, 48])), int(rng.choice([16, 24, 32, 48]))
        widths = tuple(min(512, width * 2 ** (k // 2)) for k in range(int(rng.integers(5, 9))))
        yield partial(nets.residual, widths, size, int8)
    for rows, width in ((1, 1024), (1, 1600), (9, 768), (49, 512)):
        yield partial(nets.mlp, rows, width, 3, int8)
    for tokens, heads, depth in ((65, 3, 4), (197, 3, 2), (50, 6, 3)):
        yield partial(nets.transformer, tokens, 64 * heads, heads, depth, int8, 4, tokens > 50)


def _wide_windows(rng: np.random.Generator, int8: bool) -> Iterator[partial[bytes]]:
    """The first layers of many nets for images and of all for raw signals; patches; wide depthwise convolutions."""
    for _ in range(9):
        kernel, stride = int(rng.choice([5, 7, 9, 11])), int(rng.choice([1, 2, 4]))
        shape = (1, int(rng.choice([1, 3, 3])), *[int(rng.choice([32, 48, 64, 96]))] * 2)
        yield partial(nets.wide, shape, _width(rng, 8, 64), kernel, stride, int8)
    for _ in range(9):
        kernel, stride = round(float(np.exp(rng.uniform(np.log(8), np.log(160))))), int(rng.choice([1, 2, 4, 8]))
        shape = (1, int(rng.choice([1, 2, 3])), int(rng.choice([500, 1000, 2000, 4000])))
        yield partial(nets.wide, shape, _width(rng, 8, 64), kernel, stride, int8)
    for kernel in (7, 9, 7):
        width = _width(rng, 16, 96)
        yield partial(nets.inverted, (width, width, 2 * width), 1, int(rng.choice([8, 16, 24])), int8, kernel)


def _newer_kinds(rng: np.random.Generator, int8: bool) -> Iterator[tuple[str, partial[bytes]]]:
    """Convolutions of one and three dimensions, many branches, other normalisations, resizing.

    In fp32 only: channels off the blocks, transposed convolutions, look-ups, recurrent layers.
    """
    for form in ("cubes", "cubes", "cubes", "cubes", "split", "split", "split", "pointwise", "pointwise", "depthwise"):
        for _ in range(2 if form == "depthwise" else 1):
            volume = (int(rng.choice([4, 8, 16])), int(rng.choice([12, 16, 24])))
            start = _width(rng, 8, 24)
            widths = tuple(start * 2**k for k in range(int(rng.integers(2, 4))))
            yield "volume", partial(nets.volumes, int(rng.choice([1, 3, 16])), widths, volume, form, int8)
    for length in (32, 64, 128, 256, 400, 512, 1024, 2048):
        widths = tuple(_width(rng, 16, 256 if length < 600 else 128) for _ in range(int(rng.integers(2, 5))))
        yield "points", partial(nets.points, widths, length, int8)
    for group in (1, 1, 1, 1, 8, 16, 16, 24, 32, 48):
        width = group * int(rng.integers(2, 6)) if group > 1 else _width(rng, 16, 160)
        length, kernel = int(rng.choice([50, 100, 200, 400, 800])), int(rng.choice([3, 5, 9, 15, 31]))
        yield "separable", partial(nets.separable, width, length, kernel, int(rng.integers(1, 4)), group, int8)
    for number in range(8):
        widths = tuple(_width(rng, 8, 48) for _ in range(int(rng.integers(2, 5))))
        yield (
            "branches",
            partial(nets.branches, widths, int(rng.choice([24, 32, 48, 64])), 1 + number % 3, number > 3, int8),
        )
    for groups, width in ((1, 16), (4, 32), (16, 64), (8, 24), (32, 64), (0, 16), (0, 48), (0, 32)):
        yield "groupnorm", partial(nets.normalised, width, int(rng.choice([12, 16, 32])), groups, int8)
    for mode, by_scales in itertools.product(("nearest", "linear"), (False, False, False, True, True, True)):
        size, factor = int(rng.choice([32, 48, 64, 96])), int(rng.choice([2, 2, 4]))
        yield "pyramid", partial(nets.pyramid, _width(rng, 8, 64), size, mode, factor, by_scales, int8)
    if int8:
        return
    for _ in range(10):
        widths = tuple(
            int(rng.integers(9, 80)) // 4 * 4 + int(rng.integers(1, 4)) for _ in range(int(rng.integers(2, 4)))
        )
        yield "odd", partial(nets.odd, widths, int(rng.choice([8, 16, 24, 32, 48])))
    for number, side in enumerate((1, 4, 4, 4, 6, 8, 8, 8, 12, 16, 16, 24, 50, 100, 200, 400)):
        high = 192 if side < 8 else 64 if side < 16 else 32
        widths = tuple(_width(rng, 8, high) for _ in range(int(rng.integers(2, 4))))
        sides = (side,) if side > 24 else (side, side)
        yield "decoder", partial(nets.decoder, sides, widths, (2, 4, 4, 6)[number % 4], int8)
    for rows, tokens in (((200,), 64), ((500, 64), 32), ((3000,), 128), ((1000,) * 6, 1), ((1000, 40, 2), 256)):
        yield "text", partial(nets.text, rows, int(rng.choice([16, 32, 64, 128])), tokens)
    for number in range(16):
        sizes = (_width(rng, 8, 96), _width(rng, 16, 256), int(rng.choice([8, 20, 50, 100])))
        yield "sequence", partial(nets.sequence, ("LSTM", "GRU")[number % 2], *sizes, 1 + number // 12, number % 4 > 1)


def plan() -> list[MicroModel]:
    """Return the micro-models, always the same: fp32 nets, then the same in int8 where that matters, the exit pair.

    Both forms of a net have the same number at the end of their names.
    """
    models: list[MicroModel] = []
    for int8 in (False, True):
        rng = np.random.default_rng(7)
        tag = "int8" if int8 else "fp32"
        grids = [(f"{name}/{tag}/{k}", make) for k, (name, make) in enumerate(_grids(rng, int8))]
        models += [MicroModel(name, make) for name, make in grids if not (int8 and _is_float_only(name))]
        models += [MicroModel(f"net/{tag}/{k}", make) for k, make in enumerate(_random_nets(rng, int8))]
        models += [MicroModel(f"field/{tag}/{k}", make) for k, make in enumerate(_field_nets(rng, int8))]
        models += [MicroModel(f"wide/{tag}/{k}", make) for k, make in enumerate(_wide_windows(rng, int8))]
        models += [MicroModel(f"{name}/{tag}/{k}", make) for k, (name, make) in enumerate(_newer_kinds(rng, int8))]
    return [*models, *(MicroModel(name, partial(nets.exit_net, k == 1)) for k, name in enumerate(EXIT_PAIR))]


def _is_float_only(name: str) -> bool:
    return name.split("/")[0] in {op_type.lower() for op_type in _FLOAT_ONLY}


def plan_digest(models: Sequence[MicroModel]) -> str:
    """Stable id of a plan: measurements can be fitted only against the plan they were taken with.

    The underscore keeps results of bundles that earlier versions wrote.
    """
    text = "\n".join([str(PLAN_VERSION), *(f"{m.name} _{m.make.func.__name__} {m.make.args}" for m in models)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
