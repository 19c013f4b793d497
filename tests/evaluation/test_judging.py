from __future__ import annotations

from pathlib import Path

import pytest
from helpers import installed
from helpers.small import EXITS, device, small_task, space

from autocompress.controller import Budget, search
from autocompress.errors import CandidateError
from autocompress.evaluation.judging import can_judge, judged
from autocompress.runtimes.base import get
from autocompress.studies.retarget import retarget
from autocompress.studies.study import Study

TOY = Path(__file__).parents[1] / "own_runtimes" / "toy.py"


def test_finished_files_are_converted_and_judged_in_another_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_task("resnet", n=64)
    search(task, device(), space(EXITS), budget=Budget(1), out=tmp_path / "study")
    study = Study.open(tmp_path / "study")
    with installed.runtime(TOY, "Toy", tmp_path) as name:
        there = device().model_copy(update={"name": "there", "runtime": name})
        assert can_judge(study, there) and not can_judge(study, device())
        found = judged(study, task, there)
        complete = {e.trial: e for e in study.evaluations if e.state == "complete"}
        assert set(found) == set(complete)
        (projection,) = retarget(study, [there], {"there": found}).projections
        for trial, e in found.items():
            assert e.sha256 != complete[trial].sha256 and e.size_bytes != complete[trial].size_bytes
            point = projection.point(trial)
            assert point is None or (point.size_bytes, point.validation) == (e.size_bytes, e.validation)
        assert projection.judged and "judged in it here" in projection.notes[0] and not projection.doubts

        def refuse(graph: object) -> bytes:
            raise CandidateError("this runtime knows no convolution")

        monkeypatch.setattr(get(name), "convert", refuse)
        (projection,) = retarget(study, [there], {"there": judged(study, task, there)}).projections
        assert set(projection.excluded.values()) == {"this runtime knows no convolution"} and not projection.points
