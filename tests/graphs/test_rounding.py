from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.graphs.rounding import Moments, least_squares

RNG = np.random.default_rng(0)
Array = NDArray[np.float64]


def correlated(n: int, d: int) -> Array:
    """Inputs of which some say nearly the same, as those of a trained network do."""
    return RNG.standard_normal((n, d // 4)) @ RNG.standard_normal((d // 4, d)) + 0.1 * RNG.standard_normal((n, d))


def rounded(rows: Array, inputs: Array, wanted: Array) -> tuple[Array, Array]:
    moments = Moments((inputs.T @ inputs / len(inputs))[None], (wanted.T @ inputs / len(inputs))[None], len(inputs))
    codes, scale = least_squares(rows[None], start(rows)[None], moments, -8, 7)
    return codes[0], scale[0]


def start(rows: Array) -> Array:
    largest: Array = np.abs(rows).max(1, keepdims=True) / 7
    return largest


@pytest.mark.parametrize("d", [16, 100])
def test_layers_compute_more_exactly_on_other_inputs_too(d: int) -> None:
    rows, inputs = RNG.standard_normal((20, d)), correlated(2000, d)
    codes, scale = rounded(rows, inputs[:1000], inputs[:1000] @ rows.T)
    assert set(np.unique(codes)) <= set(range(-8, 8))
    nearest = np.clip(np.rint(rows / start(rows)), -8, 7) * start(rows)
    errors = [((inputs[1000:] @ (rows - made).T) ** 2).mean() for made in (codes * scale, nearest)]
    assert errors[0] < 0.4 * errors[1]


def test_weights_make_up_for_inputs_that_are_off() -> None:
    """The quantised layers before may scale what comes in; the codes then aim at what the float layer computes."""
    rows, inputs = RNG.standard_normal((20, 32)), correlated(4000, 32)
    codes, scale = rounded(rows, 0.8 * inputs, inputs @ rows.T)
    aimed, left = (((0.8 * inputs @ (codes * scale).T - inputs @ w.T) ** 2).mean() for w in (rows, 0.8 * rows))
    assert aimed < 0.1 * left


def test_without_data_for_them_weights_take_their_nearest_codes() -> None:
    rows, inputs = RNG.standard_normal((4, 400)), RNG.standard_normal((2, 400))
    codes, scale = rounded(rows, inputs, inputs @ rows.T)
    assert np.abs(codes * scale - rows).max() < 0.8 * scale.max()


@pytest.mark.parametrize("inputs", [np.zeros((50, 8)), np.ones((50, 8)) * 1e-20])
def test_dead_inputs_leave_finite_weights(inputs: Array) -> None:
    rows = RNG.standard_normal((3, 8))
    codes, scale = rounded(rows, inputs, inputs @ rows.T)
    assert np.isfinite(codes * scale).all() and (scale > 0).all()
