from __future__ import annotations

from pathlib import Path

import pytest
from helpers.synthetic import ablation, make_study

from autocompress.recipes.recipe import Recipe
from autocompress.report.text.ablation import (
    ablation_tables,
    better_points,
    chain_lines,
    chain_sentence,
    pipeline_lines,
)
from autocompress.studies.ablation import Chain, Step
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score


def step(label: str, latency_ms: float, accuracy: float, size_bytes: int, half: float = 0.01) -> Step:
    score = Score(value=accuracy, low=accuracy - half, high=accuracy + half, n_samples=100, split="test")
    evaluation = Evaluation(
        trial=-1, recipe=Recipe(), recipe_digest="0", state="complete", validation=score, test=score,
        predicted_latency_ms=latency_ms, measured_latency_ms=latency_ms, size_bytes=size_bytes,
    )  # fmt: skip
    return Step(label=label, evaluation=evaluation)


CHAIN = Chain(
    trial=7,
    steps=(
        step("unchanged", 4.0, 0.9, 1_000_000),
        step("pruning", 2.0, 0.6, 500_000),
        step("distillation", 2.001, 0.896, 500_000),
        step("quantisation", 1.0, 0.894, 125_000),
    ),
)


def test_a_chain_in_one_sentence() -> None:
    assert chain_sentence(CHAIN, True) == (
        "Latency -50 % from pruning, -50 % from quantisation; size -50 % from pruning, -75 % from quantisation; "
        "accuracy -30.0 points from pruning, +29.6 points from distillation, -0.2 points from quantisation (a tie)."
    )


def test_lines_have_shares_of_the_unchanged_model() -> None:
    lines = chain_lines(CHAIN, True)
    assert [line.latency_change for line in lines] == ["", "-50 %", "0 %", "-50 %"]
    assert [line.size_share for line in lines] == [1, 0.5, 0.5, 0.125]
    assert [line.tie for line in lines] == [False, False, False, True]
    assert lines[0].latency == "4 ms" and lines[0].source == "measured" and lines[0].split == "test"


def test_a_failed_step_says_why() -> None:
    bad = step("qat", 1, 0.5, 1).evaluation.model_copy(
        update={"state": "failed", "reason": "the loss became nan", "validation": None, "test": None}
    )
    line = chain_lines(Chain(trial=1, steps=(CHAIN.steps[0], Step(label="qat", evaluation=bad))), True)[1]
    assert (line.accuracy, line.accuracy_change, line.remark) == ("", "", "the loss became nan")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("chains") / "study", 60, complete=True)


def test_pipelines_are_compared_relative_to_the_unchanged_model(study: Study) -> None:
    best = study.front.select("most-accurate")
    base = study.evaluation(0)
    assert best.test and best.latency_ms and base.latency_ms and best.size_bytes
    factor = 3.0  # this session was three times slower
    unchanged = step("unchanged", factor * base.latency_ms, 0.93, 1_180_000).evaluation
    worse = step("pipeline", factor * best.latency_ms * 1.1, best.test.value - 0.01, best.size_bytes + 1).evaluation
    assert best.trial in better_points(worse, unchanged, study)
    better = step("pipeline", factor * best.latency_ms * 0.9, best.test.value, best.size_bytes).evaluation
    assert best.trial not in better_points(better, unchanged, study)


def test_tables_for_the_terminal(study: Study) -> None:
    made = ablation(study)
    tables = ablation_tables(made, study)
    assert len(tables) == len(made.chains) + 1
    assert pipeline_lines(made, study)[0].label == "unchanged"
    assert pipeline_lines(made, study)[0].versus == "" and "faster" in pipeline_lines(made, study)[1].versus


def test_ties_need_intervals_of_one_split(tmp_path: Path) -> None:
    from autocompress.report.ties import ties

    def point(trial: int, latency_ms: float, low: float, high: float, split: str = "test") -> Evaluation:
        score = Score.model_validate(
            {"value": (low + high) / 2, "low": low, "high": high, "n_samples": 9, "split": split}
        )
        return step("", latency_ms, 0.5, 1).evaluation.model_copy(update={"trial": trial, "test": score})

    found = ties(
        [point(1, 1.0, 0.5, 0.6), point(2, 2.0, 0.58, 0.7), point(3, 3.0, 0.65, 0.75), point(4, 4.0, 0.9, 0.9)]
    )
    assert found == {1: (), 2: (1,), 3: (2,), 4: ()}
    assert ties([point(1, 1.0, 0.5, 0.6), point(2, 2.0, 0.5, 0.6, "validation")]) == {1: (), 2: ()}
