from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.small import EXITS, SPACE, device, small_task, space

from autocompress.controller import Budget, finish, search
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.runtimes import timing
from autocompress.runtimes.timing import Timing, TimingProtocol
from autocompress.studies.reporter import Silent
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Split


def run(out: Path, net: str = "mlp", data: dict[str, Any] = SPACE, **settings: Any) -> Study:
    profile = settings.pop("device", device())
    return search(small_task(net, **settings), profile, space(data), budget=Budget(4), out=out)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> DeviceProfile:
    """This machine, with a timing protocol that takes no time."""
    brief = TimingProtocol(rounds=2, runs=2, passes=2)
    monkeypatch.setattr(timing, "FAST", brief)
    monkeypatch.setattr(timing, "THOROUGH", brief)
    monkeypatch.setattr(finish, "contradictions", lambda points, error: {})  # so short timings contradict each other
    return device().model_copy(update={"name": "host"})


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the files that are scored on the test split."""
    files: list[str] = []
    score = Evaluator.judge

    def spy(self: Evaluator, file: bytes | Path, split: Split, *watch: Any) -> Any:
        assert isinstance(file, bytes) and split == "test"
        files.append(hashlib.sha256(file).hexdigest())
        return score(self, file, split, *watch)

    monkeypatch.setattr(Evaluator, "judge", spy)
    return files


def test_the_test_split_is_scored_once_for_front_and_baselines_only(tmp_path: Path, scored: list[str]) -> None:
    study = run(tmp_path / "study", "resnet", EXITS)
    chosen = [*study.baselines, *(e for e in study.front if e.kind == "candidate")]
    assert sorted(scored) == sorted(str(e.sha256) for e in chosen)
    assert all(e.test is not None and e.score == e.test and e.test.split == "test" for e in chosen)
    others = [e for e in study.evaluations if e not in chosen]
    assert others and all(e.test is None for e in others)


def test_final_json_holds_points_and_conditions(tmp_path: Path) -> None:
    study = run(tmp_path / "study")
    final = json.loads((study.path / "final.json").read_text())
    assert final["version"] == 1
    assert {"fp32", "fp16", "int8"} <= {p["label"] for p in final["points"]}
    assert {e.trial for e in study.front} <= {p["trial"] for p in final["points"]}
    assert {"torch", "onnxruntime", "optuna", "python", "machine"} <= set(final["conditions"]["versions"])
    assert "timing" not in final["conditions"]  # another device: nothing was measured
    assert all(p["measured_latency_ms"] is None for p in final["points"])


def test_a_task_without_a_test_split_keeps_its_validation_scores(tmp_path: Path, scored: list[str]) -> None:
    study = run(tmp_path / "study", test=None)
    assert study.final and not scored
    assert all(e.score is not None and e.score.split == "validation" for e in study.front)


def test_the_front_is_measured_on_this_machine(tmp_path: Path, host: DeviceProfile) -> None:
    study = run(tmp_path / "study", "resnet", EXITS, device=host)
    final = json.loads((study.path / "final.json").read_text())
    assert final["conditions"]["timing"]["threads"] == 1
    assert final["conditions"]["timing"]["clock"] == "CPU time of the thread"
    assert all(e.latency_source == "measured" for e in [*study.front, *study.baselines])
    for e in study.front:
        assert e.measured_latency_ms is not None and e.measured_latency_ms > 0
        if e.exits:
            expected = sum(exit_.rate * exit_.latency_ms for exit_ in e.exits)
            assert e.measured_latency_ms == pytest.approx(expected)
            assert e.worst_case_latency_ms == e.exits[-1].latency_ms


def test_a_file_that_does_not_run_any_more_costs_the_others_no_figure(tmp_path: Path, host: DeviceProfile) -> None:
    folder = tmp_path / "study"
    study = run(folder, device=host)
    broken = next(e for e in study.front if e.kind == "candidate")
    (folder / str(broken.artifact)).write_bytes(b"no network")
    finish.finish(folder, Evaluator(small_task(), host), Silent())
    again = Study.open(folder)
    assert broken.trial not in {e.trial for e in again.front}
    assert all(e.measured_latency_ms is not None for e in again.front)
    assert "not the file that was evaluated" in " ".join(again.evaluation(broken.trial).notes)


def test_a_finished_study_is_not_scored_again(tmp_path: Path, scored: list[str]) -> None:
    first = run(tmp_path / "study")
    assert scored
    scored.clear()
    assert run(tmp_path / "study").evaluations == first.evaluations
    assert not scored


def test_a_file_that_cannot_be_scored_on_the_test_split_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, tested = Evaluator.judge, list[bytes | Path]()

    def broken(self: Evaluator, file: bytes | Path, split: Split, *watch: Any) -> Any:
        tested.extend([file] if split == "test" else [])
        if len(tested) == 2 and split == "test":  # that of trial 1
            raise CandidateError("the metric of this file is NaN")
        return score(self, file, split, *watch)

    monkeypatch.setattr(Evaluator, "judge", broken)
    study = run(tmp_path / "study")
    assert study.final
    unscored = study.evaluation(1)
    assert unscored.test is None and "no test score: the metric of this file is NaN" in unscored.notes
    assert all(e.test is not None for e in study.baselines if e.trial != 1)


def test_what_contradicts_the_other_points_is_measured_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = run(tmp_path / "study").baselines[0]
    contenders = [
        baseline.model_copy(update={"trial": k, "predicted_latency_ms": 1.0, "workloads": (str(k),)}) for k in range(8)
    ]
    evaluator = Evaluator(small_task("mlp"), device().model_copy(update={"name": "host"}))

    def first_point(together_ms: float, alone_ms: float) -> Evaluation:
        def measure(jobs: list[Any], runtime: Any, **settings: Any) -> list[Timing]:
            first_ms = alone_ms if len(jobs) == 1 else together_ms
            return [Timing(1.0 if k else first_ms, 1.0, 1.0, 4, 1, 0.0, True) for k in range(len(jobs))]

        monkeypatch.setattr(timing, "measure", measure)
        return finish._measure_contenders(tmp_path / "study", contenders, evaluator, (), Silent())[0]

    cured = first_point(together_ms=2.4, alone_ms=1.0)
    assert (cured.latency_ms, cured.latency_source, cured.latency_doubt) == (1.0, "measured", "")
    confirmed = first_point(together_ms=2.4, alone_ms=2.5)  # twice the same: the prediction is wrong
    assert (confirmed.latency_ms, confirmed.latency_source, confirmed.latency_doubt) == (2.5, "measured", "")
    doubtful = first_point(together_ms=2.4, alone_ms=4.0)
    assert (doubtful.latency_ms, doubtful.latency_source) == (1.0, "predicted")
    assert doubtful.latency_doubt.startswith("measured twice and not believed: 2.4 ms, other points and its")
    assert doubtful.notes[-1] == f"latency: {doubtful.latency_doubt}"
