from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from helpers.synthetic import baseline, candidate, make_study, score
from rich.console import Console

from autocompress.report.formatting import compare, limits, ms_text, size_text
from autocompress.report.text.table import front_rows, front_table, headline
from autocompress.studies.constraints import at_least, at_most, max_accuracy_drop
from autocompress.studies.folder import write_evaluation, write_final
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Score


def printed(study: Study, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(front_table(study))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def written(folder: Path, *changed: Evaluation) -> Study:
    """A running study of the three baselines and the given candidates."""
    make_study(folder, 1, final=False, constraints=())
    for evaluation in changed:
        write_evaluation(folder, evaluation)
    return Study.open(folder)


def winner(trial: int = 3) -> Evaluation:
    figures = {"validation": score(0.94), "predicted_latency_ms": 1.05, "size_bytes": 118_000, "exits": ()}
    return candidate(trial, 1).model_copy(update={**figures, "state": "complete", "reason": ""})


def test_baselines_come_first_then_the_front_from_fast_to_slow(finished_study: Study) -> None:
    rows = front_rows(finished_study)
    assert [row.recipe for row in rows[:3]] == ["fp32", "fp16", "int8"]
    assert all("baseline" in row.mark for row in rows[:3])
    expected = [e.trial for e in finished_study.front if e.kind == "candidate"]
    assert [row.trial for row in rows[3:]] == expected
    assert all(row.mark == "front" for row in rows[3:])


def test_every_figure_of_the_table_is_the_study_s(finished_study: Study) -> None:
    for row in front_rows(finished_study):
        e = finished_study.evaluation(row.trial)
        assert e.test is not None and e.measured_latency_ms is not None and e.size_bytes is not None
        low, high = (float(x) for x in row.accuracy.split("[")[1].rstrip("]").split(","))
        value = float(row.accuracy.split(" ")[0])
        assert (value, low, high) == pytest.approx((100 * e.test.value, 100 * e.test.low, 100 * e.test.high), abs=0.006)
        assert float(row.latency.split(" ")[0]) == pytest.approx(e.measured_latency_ms, rel=0.006)
        assert row.source == "measured"
        assert row.size == size_text(e.size_bytes)
        assert bool(row.worst_case) == bool(e.exits)


def test_printed_table_names_split_source_and_device(finished_study: Study, running_study: Study) -> None:
    text = printed(finished_study)
    assert "keyword spotting on host" in text and "test" in text and "measured" in text
    assert "predicted" not in text and "validation" not in text
    text = printed(running_study)
    assert "validation" in text and "predicted" in text and "measured" not in text


def test_markup_in_user_text_is_printed_as_it_is(tmp_path: Path) -> None:
    study = written(tmp_path / "s", winner().model_copy(update={"label": "[red]x[/red] [/]"}))
    assert "[red]x[/red] [/]" in printed(study)


def test_ratios_refer_to_fp32(tmp_path: Path) -> None:
    study = written(tmp_path / "s", winner())
    row = next(row for row in front_rows(study) if row.trial == 3)
    assert row.versus == "4.0x faster, 10.0x smaller, +0.6 points"


def test_measured_and_predicted_are_never_compared() -> None:
    base, point = baseline(0, "fp32"), winner()
    measured = point.model_copy(update={"measured_latency_ms": 0.1})
    versus = compare(measured, base, True)
    assert versus is not None and versus.source == "predicted" and versus.speedup == pytest.approx(4.0)
    versus = compare(point.model_copy(update={"predicted_latency_ms": None, "measured_latency_ms": 1}), base, True)
    assert versus is not None and versus.speedup is None and "faster" not in versus.text()


def test_test_and_validation_scores_are_never_compared() -> None:
    base, point = baseline(0, "fp32"), winner()
    versus = compare(point.model_copy(update={"test": score(0.5, "test")}), base, True)
    assert versus is not None and versus.split == "validation" and versus.gained == pytest.approx(0.006)


def test_headline_counts_what_was_judged(finished_study: Study) -> None:
    text = " ".join(headline(finished_study))
    states = [e.state for e in finished_study.candidates]
    assert f"60 candidates judged: {states.count('complete')} completed" in text
    assert f"{states.count('rejected')} rejected" in text and f"{states.count('failed')} failed" in text


def test_headline_says_plainly_when_no_point_beats_every_baseline(running_study: Study) -> None:
    assert not running_study.beats_all_baselines()
    said = "Nothing beats the baselines (fp32, fp16, int8): no point is as accurate (validation split), as fast"
    assert any(s.startswith(said) for s in headline(running_study))


def test_headline_names_the_points_that_beat_every_baseline(tmp_path: Path) -> None:
    text = " ".join(headline(written(tmp_path / "s", winner())))
    assert "1 point of the front (trial 3) is at least as accurate (validation split), fast and small" in text
    assert "Nothing beats" not in text


def test_headline_says_whether_the_search_is_finished(running_study: Study, finished_study: Study) -> None:
    text = " ".join(headline(running_study))
    assert "not finished" in text and "all scores are from the validation split" in text
    assert "All latencies are predicted for host" in text
    text = " ".join(headline(finished_study))
    assert "not finished" not in text and "points on the test split (95 % interval" in text


def test_headline_warns_of_slow_and_of_unfaithful_files(tmp_path: Path) -> None:
    odd = winner().model_copy(update={"predicted_latency_ms": 9.0, "size_bytes": 9_000, "parity": 0.9})
    text = " ".join(headline(written(tmp_path / "s", odd)))
    assert "Not faster than fp32: 1 candidate of the front (trial 3)" in text
    assert "answers otherwise than the network it was made from on more than 1 % of the samples" in text


def test_an_empty_study_has_an_empty_table_and_an_honest_headline(empty_study: Study) -> None:
    assert front_rows(empty_study) == []
    assert "keyword spotting" in printed(empty_study)
    assert "Nothing was completed yet, so there is no front." in headline(empty_study)


def test_a_study_without_a_complete_candidate_or_fp32(tmp_path: Path) -> None:
    failed = {"state": "failed", "reason": "export failed", "validation": None, "predicted_latency_ms": None}
    study = written(tmp_path / "s", baseline(0, "fp32").model_copy(update={**failed, "size_bytes": None}))
    assert "export failed" in printed(study)
    assert headline(study)
    assert all(row.versus == "" for row in front_rows(study))


def valued(evaluation: Evaluation, value: float) -> Evaluation:
    figures = score(0.94).model_copy(update={"value": value, "low": value - 1, "high": value + 1})
    return evaluation.model_copy(update={"validation": figures})


def test_the_unit_is_that_of_the_fp32_baseline_whatever_a_candidate_scores(tmp_path: Path) -> None:
    study = written(tmp_path / "s", valued(winner(), -0.2))
    row = next(row for row in front_rows(study) if row.trial == 3)
    assert row.accuracy.startswith("-20.00 % [") and row.versus.endswith("-113.4 points")
    study = written(tmp_path / "t", valued(baseline(0, "fp32"), 31.5), valued(winner(), 0.9))
    row = next(row for row in front_rows(study) if row.trial == 3)
    assert row.accuracy.startswith("0.9 [") and "points" not in row.versus


def test_a_task_may_say_what_unit_its_metric_has(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 1, final=False, constraints=(), metric_unit="number")
    assert front_rows(study)[0].accuracy.startswith("0.934 [")


def test_no_interval_is_told_where_none_is_known(tmp_path: Path) -> None:
    alone = {"validation": Score(value=0.94, low=0.94, high=0.94, n_samples=0, split="validation")}
    study = written(tmp_path / "s", winner().model_copy(update=alone))
    assert next(row for row in front_rows(study) if row.trial == 3).accuracy == "94.00 % [no interval known]"
    assert study.evaluation(3).as_row()["accuracy_low"] is None


SPLITS = re.compile(r"\b(validation|test) (?:split|scores?)")


def test_no_sentence_is_of_two_splits(finished_study: Study, running_study: Study) -> None:
    for study in (finished_study, running_study):
        assert any(SPLITS.search(sentence) for sentence in headline(study))
        for sentence in headline(study):
            if "not finished" not in sentence:  # it says what there is not yet
                assert len(set(SPLITS.findall(sentence))) <= 1, sentence


def test_a_column_has_one_split_even_if_a_score_is_missing(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 30)
    last = [e.model_copy(update={"test": None}) if e.trial == study.front[0].trial else e for e in study.evaluations]
    write_final(study.path, [e for e in last if e.measured_latency_ms], {})
    study = Study.open(study.path)
    row = next(row for row in front_rows(study) if row.trial == study.front[0].trial)
    assert row.accuracy == "no test score" and row.versus.endswith("accuracy not scored")
    frame = study.frame()
    assert set(frame["accuracy_split"].dropna()) == {"test"}
    assert frame["accuracy"].isna()[study.front[0].trial]


def test_winners_are_counted_on_the_split_that_is_named(tmp_path: Path) -> None:
    study = written(tmp_path / "s", winner())
    lucky = winner().model_copy(update={"test": score(0.92, "test")})
    others = [b.model_copy(update={"test": score(b.validation.value, "test")}) for b in study.baselines if b.validation]
    write_final(study.path, [*others, lucky], {})
    text = " ".join(headline(Study.open(study.path)))
    assert "Nothing beats the baselines (fp32, fp16, int8): no point is as accurate (test split)" in text
    assert "It was chosen as the fastest point within 1 point of fp32 on the validation split." in text
    assert "On the test split it loses more than 1 point; no faster candidate of the front loses less." in text


def test_a_point_that_is_slower_than_fp32_is_not_recommended(tmp_path: Path) -> None:
    slow = winner().model_copy(update={"predicted_latency_ms": 9.0, "size_bytes": 9_000})
    said = headline(written(tmp_path / "s", slow))
    assert "No candidate of the front is faster than fp32 and within 1 point of it (validation split)." in said


@pytest.mark.parametrize(
    ("value", "text"), [(0.5254, "0.525 ms"), (12.0, "12 ms"), (99.96, "100 ms"), (1234.5, "1,234 ms")]
)
def test_milliseconds_have_three_digits(value: float, text: str) -> None:
    assert ms_text(value) == text


@pytest.mark.parametrize(
    ("size", "text"), [(512, "512 B"), (39_800, "39.8 kB"), (318_000, "318 kB"), (11_172_042, "11.2 MB")]
)
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert size_text(size) == text


def test_constraints_are_resolved_against_the_fp32_baseline(tmp_path: Path) -> None:
    given = (
        at_most("latency_ms", 3),
        at_most("size_bytes", 0.5, relative_to_baseline=True),
        at_least("accuracy", 0.9),
        max_accuracy_drop(0.01),
    )
    study = make_study(tmp_path / "s", 1, final=False, constraints=given)
    base = study.evaluation(0)
    assert [limit.constraint for limit in limits(study)] == [c.resolve(base) for c in given]
    assert [limit.text for limit in limits(study)] == list(map(str, given))
    assert limits(make_study(tmp_path / "empty", 0, constraints=given)) == []


def test_the_front_keeps_the_constraints_and_the_headline_says_so(finished_study: Study) -> None:
    assert all(e.objectives()[0] >= 0.9 and e.objectives()[1] <= 3.0 for e in finished_study.front)
    kept = "latency_ms at most 3; accuracy at least 0.9 on the validation split"
    n = len(finished_study.front)
    assert f"All points of the front keep the constraints ({kept})." in headline(finished_study)
    assert f"On the test split {n} of {n} keep the limit of accuracy." in headline(finished_study)


def test_headline_says_when_no_point_keeps_the_constraints(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", 20, constraints=(at_most("latency_ms", 1e-6),))
    assert len(study.front)
    assert any("No point keeps all constraints" in sentence for sentence in headline(study))
