"""A runtime that nothing in the package knows: a whole search makes its files, judges and times them in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import installed
from helpers.small import EXITS, SPACE, device, small_task, space

from autocompress import Budget, DeviceProfile, Study, ablate, apply, search
from autocompress.devices.profile import host_name
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.packaging.package import export_point
from autocompress.runtimes import base, timing
from autocompress.studies.folder import read_artifact
from autocompress.studies.retarget import retarget

TOY = Path(__file__).parent / "own_runtimes" / "toy.py"
MARK = b"toy\0"


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    brief = timing.TimingProtocol(rounds=2, runs=1, warm_up=1, max_seconds=0.02, pause_s=0.0)
    with installed.runtime(TOY, "Toy", tmp_path_factory.mktemp("toy")), pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "FAST", brief)
        patch.setattr(timing, "THOROUGH", brief)
        yield


def toy() -> DeviceProfile:
    """This machine with the runtime, as a file says it."""
    data = device().model_dump(mode="json", exclude_none=True)
    return DeviceProfile.parse({**data, "name": host_name("toy"), "runtime": "toy"})


@pytest.fixture(scope="module")
def study(known: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("search") / "study"
    return search(small_task("mlp", n=96), toy(), space(SPACE), budget=Budget(4), out=out)


def test_every_file_is_the_runtimes_own(study: Study) -> None:
    complete = [e for e in study.evaluations if e.state == "complete"]
    assert len(complete) >= 4 and all(str(e.artifact).endswith("/model.toy") for e in complete)
    for e in complete:
        file = read_artifact(study.path, e)
        assert file.startswith(MARK) and len(file) == e.size_bytes
        with pytest.raises(CandidateError, match="ONNX Runtime cannot load the model"):
            base.reference().load(file)


def test_accuracy_and_latency_are_those_in_the_runtime(study: Study) -> None:
    evaluator = Evaluator(small_task("mlp", n=96), toy())
    best = max(study.front, key=lambda e: e.objectives()[0])
    assert best.latency_source == "measured" and best.test is not None
    assert evaluator.score(read_artifact(study.path, best), "validation").value == best.validation.value
    assert {e.weight_bits for e in best.layers} <= {8, 32}, "it cannot execute weights of 4 bits"


def test_exits_are_swept_and_measured_in_it(tmp_path: Path) -> None:
    found = search(small_task("resnet", n=48), toy(), space(EXITS), budget=Budget(1), out=tmp_path / "study")
    with_exits = [e for e in found.evaluations if e.exits]
    assert with_exits and all(sum(x.rate for x in e.exits) == pytest.approx(1) for e in with_exits)
    assert any(e.latency_source == "measured" for e in with_exits)
    assert {str(e.artifact).rpartition("/")[2] for e in with_exits} >= {"model.toy"}


def test_a_study_of_it_is_retargeted_ablated_and_repeated(study: Study, tmp_path: Path) -> None:
    task = small_task("mlp", n=96)
    assert len(retarget(study, [device()]).projections[0].points) == len(study.evaluations)
    point = next(e for e in study.evaluations if e.kind == "candidate" and e.state == "complete")
    found = ablate(study, task, [point.trial])
    assert all(str(step.evaluation.artifact).endswith(".toy") for chain in found.chains for step in chain.steps)
    exported = export_point(study, point, tmp_path / "shipped")
    assert {p.name for p in exported.iterdir()} == {"model.toy", "recipe.yaml", "device.yaml", "card.md", "card.json"}
    assert "in toy" in (exported / "card.md").read_text() and study.settings.versions["toy"]
    again = apply(point.recipe, task, toy(), out=tmp_path / "model.toy")
    assert (tmp_path / "model.toy").read_bytes().startswith(MARK) and again.sha256 == point.sha256
