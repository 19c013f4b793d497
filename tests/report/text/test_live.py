from __future__ import annotations

import json
import os
import signal
import time
from io import StringIO
from pathlib import Path

import pytest
from helpers.synthetic import baseline, candidate, make_study, settings
from rich.console import Console

from autocompress import _process
from autocompress.report.study_reader import PROGRESS, Follower
from autocompress.report.text.live import Activity, JsonLines, Live, Quiet, Recorder, duration, sparkline
from autocompress.report.web.html import write_html
from autocompress.studies.folder import trial_folder, write_evaluation
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

BUDGET = {"trials": 10, "hours": None}


class Kept(Quiet):
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def note(self, message: str) -> None:
        self.told.append(message)

    def status(self, message: str) -> None:
        self.told.append(message)

    def judged(self, evaluation: Evaluation, share: float, eta_s: float | None) -> None:
        self.told.append((evaluation.trial, share, eta_s))


def begin(folder: Path) -> Path:
    """A study in which nothing was judged yet."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(settings().model_dump_json())
    return folder


def told(folder: Path) -> dict[str, object]:
    """What the search has written, once it is there."""
    for _ in range(200):
        if (folder / PROGRESS).exists():
            break
        time.sleep(0.05)
    found: dict[str, object] = json.loads((folder / PROGRESS).read_text())
    return found


# ------------------------------------------------------------------------------------------------------ terminal


def screen(folder: Path, terminal: bool) -> tuple[Live, Console]:
    console = Console(file=StringIO(), force_terminal=terminal, width=140, height=40, legacy_windows=False)
    return Live(console, folder), console


def test_a_terminal_shows_front_hypervolume_budget_workers_and_reasons(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", 30, final=False)
    live, console = screen(study.path, terminal=True)
    with live:
        live.status("trial 77: prune 50%")
        live.status("trial 78: distillation 40 %")
        live.status("trial 78: distillation 60 %")
        live.judged(next(e for e in study.candidates if e.state == "complete"), 0.25, 600)
        with console.capture() as capture:
            console.print(live._render())
    text = capture.get()
    for words in ("fp32", "int8", "front", "hypervolume", "25%", "about 10 min left", "trial 77: prune 50%"):
        assert words in text
    assert "distillation 60 %" in text and "distillation 40 %" not in text
    assert "rejected: " in text and any(block in text for block in "▂▃▄▅▆▇█")


def test_what_was_judged_is_no_longer_under_way() -> None:
    activity = Activity()
    for message in ("looking at the network", "trial 3: prune 25%", "trial 4: ptq w8", "trial 3: training"):
        activity.status(message)
    assert activity.workers() == [{"trial": 3, "doing": "training"}, {"trial": 4, "doing": "ptq w8"}]
    activity.done(3)
    activity.status("measuring 8 files")
    assert activity.workers() == [{"trial": 4, "doing": "ptq w8"}, {"trial": None, "doing": "measuring 8 files"}]


def test_a_trial_that_was_answered_from_the_study_is_no_longer_under_way(tmp_path: Path) -> None:
    activity = Activity(tmp_path)
    activity.status("trial 3: prune 25%")
    activity.status("trial 4: ptq w8")
    write_evaluation(tmp_path, candidate(3, 1))
    assert [row["trial"] for row in activity.workers()] == [4]


def test_a_log_gets_lines_only(tmp_path: Path) -> None:
    live, console = screen(begin(tmp_path / "study"), terminal=False)
    with live:
        live.note("a note [of] brackets")
        live.status("never shown")
        live.judged(baseline(0, "fp32"), 0.0, None)
        for i in range(9):
            rejected = {"state": "rejected", "reason": "too slow"}
            live.judged(candidate(10 + i, 1).model_copy(update=rejected), 0.1, 60.0)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "note: a note [of] brackets" and "baseline fp32" in lines[1]
    assert len(lines) == 2 + 5  # of the rejected ones the first few


def test_sparkline_and_duration() -> None:
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert len(sparkline([float(i) for i in range(1000)], 40)) == 40 and sparkline(range(1000), 40)[-1] == "█"
    assert sparkline([], 10) == "" and sparkline([0.0, 0.0], 10) == "▁▁"
    assert [duration(s) for s in (5, 720, 12_000)] == ["5 s", "12 min", "3 h 20 min"]


def test_json_lines_are_one_object_each(tmp_path: Path) -> None:
    stream = StringIO()
    lines = JsonLines(stream)
    with lines:
        lines.note("two\nlines")
        for i in range(100):
            lines.status(f"step {i}")
        lines.judged(candidate(3, 1), 0.5, 30.0)
        lines.judged(candidate(4, 1).model_copy(update={"state": "failed", "validation": None}), 0.6, None)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in found] == ["note", "status", "trial", "trial"]
    assert found[0]["message"] == "two\nlines" and found[2]["trial"] == 3 and found[2]["budget_used"] == 0.5
    assert found[3]["accuracy"] is None and all("time" in line for line in found)


@pytest.mark.parametrize("reporter", [Quiet, JsonLines, Live])
def test_sigterm_is_an_interrupt_while_a_reporter_is_there(
    reporter: type[Quiet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "_interrupted", False)  # the second signal of a process ends it at once
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), reporter():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


# ------------------------------------------------------------------------------------------------- progress.json


def test_the_recorder_passes_on_and_writes(tmp_path: Path) -> None:
    folder, kept = begin(tmp_path / "study"), Kept()
    with Recorder(folder, kept, BUDGET) as recorder:
        recorder.note("a note")
        recorder.status("trial 5: training")
        recorder.judged(candidate(3, 1), 0.25, 90.0)
        while told(folder)["share"] is None:
            time.sleep(0.05)
        follower = Follower(folder)
        follower.refresh()
        progress = follower.progress()
        assert progress["state"] == "running" and progress["pid"] == os.getpid()
        assert progress["workers"] == [{"trial": 5, "doing": "training"}]
    assert kept.told == ["a note", "trial 5: training", (3, 0.25, 90.0)]
    last = told(folder)
    assert last["ended"] == "finished" and last["budget"] == BUDGET and last["notes"] == ["a note"]
    assert last["share"] == 0.25 and last["eta_s"] == 90.0
    assert follower.progress()["state"] == "interrupted"  # there are no final figures


def test_nothing_is_written_before_there_is_a_study(tmp_path: Path) -> None:
    with Recorder(tmp_path / "study", Quiet(), BUDGET) as recorder:
        recorder.status("looking at the network")
        time.sleep(0.1)
    assert not (tmp_path / "study").exists()


def test_an_interrupted_search_says_so(tmp_path: Path) -> None:
    folder = begin(tmp_path / "study")
    with pytest.raises(KeyboardInterrupt), Recorder(folder, Quiet(), BUDGET):
        raise KeyboardInterrupt
    assert told(folder)["ended"] == "interrupted"


# ----------------------------------------------------------------------------------------------------- following


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(tmp_path / "study", 10, final=False)
    follower = Follower(study.path)
    assert follower.refresh() and not follower.refresh()
    assert follower.study == study and follower.volumes is not None
    read: list[int] = []
    original = __import__("autocompress.report.study_reader", fromlist=["x"]).read_evaluation
    monkeypatch.setattr(
        "autocompress.report.study_reader.read_evaluation", lambda f, n: (read.append(n), original(f, n))[1]
    )
    before, version = list(follower.volumes.volume), follower.version
    write_evaluation(study.path, candidate(50, 1))
    assert follower.refresh() and read == [50] and follower.version == version + 1
    assert follower.volumes.volume[:-1] == before and follower.study == Study.open(study.path)


def test_a_folder_that_grows_from_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    follower = Follower(folder)
    assert not follower.refresh() and follower.progress()["state"] == "waiting"
    begin(folder)
    assert follower.refresh() and follower.study is not None and follower.volumes is None
    assert follower.progress()["state"] == "unknown"
    write_evaluation(folder, baseline(0, "fp32"))
    assert follower.refresh() and follower.volumes is not None


def test_half_written_and_damaged_files_are_left_out(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", 10)
    whole = (trial_folder(study.path, 4) / "evaluation.json").read_text()
    (trial_folder(study.path, 4) / "evaluation.json").write_text(whole[:100])
    (study.path / "final.json").write_text("{")
    (study.path / PROGRESS).write_text('{"pid":')
    (study.path / "trials/000099").mkdir()  # begun, nothing written
    (study.path / "trials/notes.txt").write_text("not a trial")
    follower = Follower(study.path)
    assert follower.refresh() and follower.study is not None and follower.unreadable == 1
    assert 4 not in {e.trial for e in follower.study.evaluations} and not follower.study.final
    assert follower.progress()["state"] == "unknown"
    (trial_folder(study.path, 4) / "evaluation.json").write_text(whole)
    assert follower.refresh() and follower.unreadable == 0


def test_the_end_of_a_search_is_seen(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", 10)
    follower = Follower(study.path)
    follower.refresh()
    assert follower.study is not None and follower.study.final and follower.progress()["state"] == "finished"
    dead = {"host": os.uname().nodename, "pid": 2**22 + 1, "ended": "", "workers": [{"trial": 3, "doing": "x"}]}
    (study.path / PROGRESS).write_text(json.dumps(dead))
    assert follower.progress()["workers"] == []  # trial 3 was judged
    (study.path / "final.json").unlink()
    follower.refresh()
    assert follower.progress()["state"] == "interrupted"
    (study.path / PROGRESS).write_text(json.dumps({**dead, "host": "another machine"}))
    assert follower.progress()["state"] == "unknown"


def test_following_writes_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", 5)
    write_html(study, tmp_path / "report.html")
    before = {path: path.stat().st_mtime_ns for path in study.path.rglob("*")}
    follower = Follower(study.path)
    follower.refresh()
    follower.progress()
    assert {path: path.stat().st_mtime_ns for path in study.path.rglob("*")} == before
