"""Screened costs are those of the deployed graph: same kernels, same latency, same memory, nearly the same file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.many import MANY, many
from helpers.small import device
from helpers.tasks import make_task

from autocompress.controller.plan import Fixed
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening import Screen, screen
from autocompress.recipes.domains import Choice
from autocompress.recipes.space import SearchSpace

PRUNE = {"technique": "prune", "ratio": {"per": "layer", "low": 0.0, "high": 0.75, "step": 0.125}, "round_to": 8}
EXITS = {"technique": "early_exit", "optional": True, "first": {"choice": [0.3, 0.6]}, "head": "linear"}


def _settings(space: SearchSpace, evaluator: Evaluator, n: int) -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)

    def value(domain: Any) -> Any:
        return (
            domain.values[rng.integers(len(domain.values))] if isinstance(domain, Choice) else domain.at(rng.random())
        )

    knobs = space.knobs(evaluator.analysis.outline)
    return {name: [value(domain) for _ in range(n)] for name, domain in knobs.items()}


@pytest.mark.parametrize(
    ("net", "bits", "n"),
    [
        ("resnet", {"per": "stage", "choice": [8, 4]}, 5),
        ("resnet", {"per": "layer", "choice": [8, 4, 16, 2, 32]}, 8),
        ("mobilenetv2", {"choice": [8, 16]}, 5),
        ("vit", {"choice": [8, 32]}, 4),
        ("ids and mask", {"per": "stage", "choice": [8, 4, 16, 32]}, 6),
    ],
)
def test_screened_costs_are_those_of_the_deployed_graph(net: str, bits: dict[str, Any], n: int) -> None:
    evaluator = Evaluator(many(net) if net in MANY else make_task(net), device())
    exits = [EXITS] if net not in ("vit", *MANY) else []
    stages = [*exits, PRUNE, {"technique": "ptq", "weight_bits": bits, "activation_bits": 8}]
    space = SearchSpace.parse({"version": 1, "stages": stages})
    _agree(evaluator, space, n)


def test_screened_costs_are_right_where_blocks_are_left_out_as_well() -> None:
    """Together with their layers, groups of channels are gone."""
    evaluator = Evaluator(make_task("mobilenetv2"), device())
    stages = [
        {"technique": "depth", "ratio": {"choice": [0.0, 1.0]}},
        EXITS,
        {"technique": "prune", "ratio": {"per": "layer", "choice": [0.25, 0.5]}, "round_to": 2},
        {"technique": "ptq", "weight_bits": {"per": "stage", "choice": [8, 4]}},
    ]
    _agree(evaluator, SearchSpace.parse({"version": 1, "stages": stages}), 6)


def test_a_space_with_too_many_variants_of_the_network_is_forecast_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading each takes seconds; the exits and blocks of a space multiply."""
    evaluator = Evaluator(make_task("mobilenetv2"), device())
    each = {"technique": "depth", "ratio": {"per": "layer", "choice": [0, 1]}}
    both = SearchSpace.parse({"version": 1, "stages": [each, EXITS]})
    Screen(evaluator, both)
    monkeypatch.setattr(screen, "_MOST_VARIANTS", 8)
    with pytest.raises(CandidateError, match="variants of the network or more, which is too many to read"):
        Screen(evaluator, both)


def _agree(evaluator: Evaluator, space: SearchSpace, n: int) -> None:
    settings = _settings(space, evaluator, n)
    screen = Screen(evaluator, space)
    costs, macs = screen.costs(settings), screen.macs(settings)
    for i in range(0, n, max(1, n // 5)):
        recipe = space.sample(Fixed({name: values[i] for name, values in settings.items()}), evaluator.analysis.outline)
        forecast = evaluator.forecast(recipe)
        assert costs.worst_case_ms[i] == pytest.approx(forecast.worst_case_ms, rel=1e-9)
        assert costs.best_case_ms[i] == pytest.approx(forecast.best_case_ms, rel=1e-9)
        assert costs.peak_memory_bytes[i] == pytest.approx(forecast.cost.peak_memory_bytes, rel=0.01)
        # What nodes and names of mixed formats take is averaged over layers: up to 2 kB, whatever the file holds.
        assert costs.size_bytes[i] == pytest.approx(forecast.size_bytes, rel=0.03, abs=2000)
        assert costs.capacity[i] == pytest.approx(forecast.capacity)
        assert macs[i] == pytest.approx(forecast.cost.macs, rel=1e-9)


def test_costs_do_not_depend_on_what_was_asked_before() -> None:
    """Tables are kept between batches, and made anew when a batch brings widths that none had before."""
    evaluator = Evaluator(make_task("resnet"), device())
    stages = [EXITS, PRUNE, {"technique": "ptq", "weight_bits": {"per": "layer", "choice": [8, 4]}}]
    space = SearchSpace.parse({"version": 1, "stages": stages})
    settings = _settings(space, evaluator, 12)
    whole, one_by_one = Screen(evaluator, space).costs(settings), Screen(evaluator, space)
    for i in range(12):
        row = {name: values[i : i + 1] for name, values in settings.items()}
        costs = one_by_one.costs(row)
        for field in ("best_case_ms", "worst_case_ms", "size_bytes", "peak_memory_bytes", "capacity"):
            assert getattr(costs, field) == pytest.approx(getattr(whole, field)[i : i + 1], rel=1e-12), (i, field)
        assert one_by_one.capacity(row) == costs.capacity


def test_wider_and_finer_costs_more() -> None:
    evaluator = Evaluator(make_task("resnet"), device())
    ptq = {"technique": "ptq", "weight_bits": {"choice": [2, 4, 8, 32]}, "activation_bits": 8}
    space = SearchSpace.parse({"version": 1, "stages": [PRUNE, ptq]})
    settings = _settings(space, evaluator, 6)
    for name in settings:
        if name.startswith("prune"):
            settings[name] = [0.75, 0.5, 0.25, 0.0, 0.0, 0.0]
    settings["ptq.weight_bits"] = [8, 8, 8, 4, 8, 32]
    costs = Screen(evaluator, space).costs(settings)
    assert (np.diff(costs.size_bytes[[0, 1, 2, 4, 5]]) > 0).all()
    assert (np.diff(costs.worst_case_ms[[0, 1, 2, 4]]) > 0).all()
    assert costs.size_bytes[3] < costs.size_bytes[4]
    assert costs.worst_case_ms[3] == costs.worst_case_ms[4]


def test_a_first_question_about_one_format_does_not_hide_the_others() -> None:
    """A search asks for one setting first; with one reading no place was known to depend on any layer."""
    evaluator = Evaluator(make_task("resnet"), device())
    space = SearchSpace.parse({"version": 1, "stages": [{"technique": "ptq", "weight_bits": {"choice": [8, 16]}}]})
    screen = Screen(evaluator, space)
    screen.costs({"ptq.weight_bits": [8]})
    costs = screen.costs({"ptq.weight_bits": [8, 16]}).worst_case_ms
    for bits, ms in zip((8, 16), costs, strict=True):
        recipe = space.sample(Fixed({"ptq.weight_bits": bits}), evaluator.analysis.outline)
        assert ms == pytest.approx(evaluator.forecast(recipe).worst_case_ms, rel=1e-9)
