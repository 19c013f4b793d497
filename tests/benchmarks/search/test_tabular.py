from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "search"))

from tabular import KNOBS, METHODS, Campaign, Problem, Table, summary, uniform

RATIOS = {f"stage{i}": (0.0, 0.5) for i in range(1, 5)}
THRESHOLDS = (0.9, 0.5)


def network(ratios: tuple[float, ...], has_exit: bool) -> dict[str, Any]:
    """Wider is slower and better; four files, the last one smaller and worse; an exit is taken by half at 0.5."""
    kept, points = sum(1 - r for r in ratios), THRESHOLDS if has_exit else (None,)

    def file(bits: int) -> dict[str, Any]:
        whole, accuracy = kept / (1 + (bits > 0)), 0.8 + 0.02 * kept - 0.01 * bits
        path_ms = [0.3 * whole, whole] if has_exit else [whole]
        found = [(0.5 if t == 0.5 else 0.1) if has_exit else 0.0 for t in points]
        judged = [
            {"validation": accuracy - 0.02 * r, "test": accuracy - 0.02 * r, "ms": whole * (1 - 0.7 * r), "rate": r}
            for r in found
        ]
        return {"bytes": int(1000 * kept / (1 + bits)), "path_ms": path_ms, "cpu_s": 0.2, "points": judged}

    final = 0.8 + 0.02 * kept
    return {
        "ratios": ratios,
        "exit": has_exit,
        "curve": [0.5, final - 0.05, final],
        "structure_s": 0.1,
        "curve_s": [0.4, 1.0, 1.0],
        "files": [file(bits) for bits in range(4)],
    }


@pytest.fixture(scope="module")
def table() -> Table:
    every = itertools.product(itertools.product(*RATIOS.values()), (False, True))
    return Table(
        {
            "ratios": RATIOS,
            "bits": ["fp32", "int8", "mixed", "int4"],
            "thresholds": THRESHOLDS,
            "epochs": 2,
            "networks": [network(*one) for one in every],
        }
    )


def setting(**changes: int) -> dict[str, int]:
    return dict.fromkeys(KNOBS, 0) | changes


def test_a_table_holds_every_recipe_once(table: Table) -> None:
    assert table.n_recipes == 16 * 4 + 16 * 4 * 2
    record = {"ratios": RATIOS, "bits": ["a"] * 4, "thresholds": THRESHOLDS, "epochs": 2}
    with pytest.raises(ValueError, match="gaps"):
        Table(record | {"networks": [network((0.0,) * 4, False)]})


def test_a_campaign_pays_for_a_network_and_a_file_once(table: Table) -> None:
    campaign = Campaign(Problem.named(table, "default"), 100)
    costs = []
    for one in (setting(exit=1), setting(exit=1, threshold=1), setting(exit=1, bits=2), setting(exit=1)):
        campaign.evaluate(one)
        costs.append(campaign.cost)
    assert np.allclose(costs, [2.3, 2.3, 2.5, 2.5])
    pays_again = Campaign(Problem.named(table, "default"), 100, remembers=False)
    for _ in range(2):
        pays_again.evaluate(setting())
    assert pays_again.cost == pytest.approx(4.6)


def test_training_goes_on_where_it_stopped(table: Table) -> None:
    campaign = Campaign(Problem.named(table, "default"), 100)
    errors = [campaign.train(setting(), epochs) for epochs in (0, 1, 2)]
    assert errors == sorted(errors, reverse=True)
    assert campaign.cost == pytest.approx(0.1 + 0.4 + 1 + 1)
    campaign.evaluate(setting())
    assert campaign.cost == pytest.approx(2.5 + 0.2)


def test_the_forecast_of_latency_and_size_is_that_of_the_file(table: Table) -> None:
    x = {name: np.array([0, 1]) for name in KNOBS} | {"exit": np.array([0, 0])}
    assert np.allclose(table.costs(x), [table.validation[(0,) * 7][1:], table.validation[1, 1, 1, 1, 0, 1, 1][1:]])


def test_the_whole_table_is_the_whole_hypervolume(table: Table) -> None:
    problem = Problem.named(table, "default")
    campaign = Campaign(problem, 1e9)
    for row in np.ndindex(table.validation.shape[:-1]):
        campaign.evaluate(dict(zip(KNOBS, row, strict=True)))
    assert campaign.curve(np.array([1.0, campaign.cost])) == [0.0, 1.0]
    assert problem.tested(campaign.front()) == pytest.approx(1.0)
    assert all(len(row) == len(KNOBS) for row in campaign.front())


@pytest.mark.parametrize(
    "method", ["ehvi", "tpe in the product", "halving", "only bits", "only exits", "first pruning, then bits"]
)
def test_every_method_spends_its_budget_and_is_deterministic(table: Table, method: str) -> None:
    def rows() -> list[tuple[int, ...]]:
        campaign = Campaign(Problem.named(table, "default"), 14 * table.full_s())
        METHODS[method](campaign, 1)
        assert campaign.is_over or len(campaign.rows) >= 4
        assert campaign.cost < 20 * table.full_s()
        return campaign.rows

    first = rows()
    assert first == rows()
    fixed = {"only bits": {0: 0, 1: 0, 2: 0, 3: 0, 4: 0}, "only exits": {0: 0, 1: 0, 2: 0, 3: 0, 5: 0}}
    assert all(row[i] == value for i, value in fixed.get(method, {}).items() for row in first)


def test_the_summary_names_the_cost_at_which_tpe_is_reached(table: Table) -> None:
    grid = list(range(1, 61))
    slow, fast = [i / 60 for i in grid], [min(1.0, i / 15) for i in grid]
    runs = [
        {"problem": "p", "method": m, "seed": s, "hypervolume": c, "test": 1.0, "front": [(0, 0, 0, 0, 0, 1, 0)]}
        for m, c in (("tpe", slow), ("ehvi", fast))
        for s in (0, 1)
    ]
    record = {"grid": grid, "runs": runs}
    assert "0.25 (0.25-0.25)" in summary(record, "p").splitlines()[-1]
    lines = uniform(record, "p", Problem.named(table, "default")).splitlines()
    assert len(lines) == 3 and "dominated (validation) in 0 of 2" in lines[0]
