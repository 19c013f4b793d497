from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.small import device
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import StudyError
from autocompress.graphs.nested_if import to_nested_if
from autocompress.packaging.package import FILES, export_point
from autocompress.recipes.recipe import Recipe
from autocompress.studies.folder import write_evaluation, write_final
from autocompress.studies.results import Evaluation, ExitSummary
from autocompress.studies.settings import Settings
from autocompress.studies.study import Study
from autocompress.tasks.kinds.detection import Detection
from autocompress.tasks.metric import Score

N_CLASSES = 3
CLASSES = ("cat", "dog", "bird")
EXITS = (
    ExitSummary(place="stage1", threshold=0.7, rate=0.6, latency_ms=0.1, accuracy=0.9),
    ExitSummary(place="output", threshold=0.0, rate=0.4, latency_ms=0.3, accuracy=0.8),
)


def network(exits: bool) -> onnx.ModelProto:
    """Four numbers to three logits: the first three of them, times 1 at the exit and times 100 at the end."""
    eye = np.eye(4, N_CLASSES, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["early"], name="early"),
        helper.make_node("Mul", ["early", "hundred"], ["late"], name="late"),
    ]
    outputs = ["early", "late"] if exits else ["late"]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", N_CLASSES]) for name in outputs]
    weights = [numpy_helper.from_array(eye, "w"), numpy_helper.from_array(np.array(100, np.float32), "hundred")]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])]
    graph = helper.make_graph(nodes, "net", inputs, infos, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return to_nested_if(model, outputs, [0.7]) if exits else model


def score(value: float, split: str) -> Score:
    return Score.model_validate(
        {"value": value, "low": value - 0.02, "high": value + 0.02, "n_samples": 9, "split": split}
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Trial 0 is a plain file, trial 1 one with an early exit, trial 2 was rejected."""
    folder = tmp_path_factory.mktemp("export") / "my study"
    folder.mkdir()
    settings = {
        "task": "my task.py:task",
        "task_name": "animals",
        "classes": CLASSES,
        "preprocessing": "grey / 255",
        "metric": "accuracy",
        "model_sha256": "5f" * 32,
        "data_sha256": "a1" * 32,
        "device": {**device().model_dump(mode="json"), "name": "host"},
        "space": {},
        "constraints": (),
        "sampler": "tpe",
        "seed": 7,
        "outline": {},
        "unprunable": {},
        "versions": {"autocompress": "0.1.0", "torch": "2.13.0"},
        "created_at": "",
    }
    (folder / "study.json").write_text(Settings.model_validate(settings).model_dump_json())
    common = {"recipe": Recipe(), "recipe_digest": Recipe().digest(), "predicted_latency_ms": 0.2}
    made = []
    for trial, exits in ((0, False), (1, True)):
        path = folder / f"trials/{trial:06d}/model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(network(exits), path)
        made.append(
            Evaluation.model_validate(
                {
                    **common,
                    "trial": trial,
                    "kind": "candidate" if exits else "baseline",
                    "label": "1 early exit" if exits else "fp32",
                    "state": "complete",
                    "validation": score(0.9, "validation"),
                    "worst_case_latency_ms": 0.3,
                    "size_bytes": path.stat().st_size,
                    "artifact": str(path.relative_to(folder)),
                    "exits": EXITS if exits else (),
                    "notes": ("a note",),
                }
            )
        )
    made.append(Evaluation.model_validate({**common, "trial": 2, "state": "rejected", "reason": "too slow"}))
    for evaluation in made:
        write_evaluation(folder, evaluation)
    final = [e.model_copy(update={"test": score(0.88, "test"), "measured_latency_ms": 0.25}) for e in made[:2]]
    timing = {"protocol": "smallest of all calls", "clock": "CPU time of the thread", "threads": 1}
    write_final(folder, final, {"finished_at": "2026-11-22", "timing": timing})
    return Study.open(folder)


def _distributions(name: str, found: set[str]) -> set[str]:
    """A distribution and what it requires, without extras."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key not in found:
        found.add(key)
        for requirement in importlib.metadata.requires(name) or []:
            if "extra ==" not in requirement:
                needed = re.match(r"[A-Za-z0-9._-]+", requirement)
                assert needed is not None
                _distributions(needed[0], found)
    return found


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds onnxruntime and numpy with what they require, and nothing else, not even pip."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    for name in _distributions("onnxruntime", set()) | {"numpy"}:
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(importlib.metadata.distribution(name).locate_file(top))))
    return folder / "bin/python"


def run(python: Path, *arguments: object) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bare_environment_is_bare(bare_python: Path) -> None:
    names = ("torch", "onnx", "autocompress", "pandas", "yaml", "pip")
    code = f"import importlib.util as u; print(*(n for n in {names} if u.find_spec(n)))"
    assert run(bare_python, "-c", code).strip() == ""


def test_the_plain_file_runs_in_a_bare_environment(study: Study, bare_python: Path, tmp_path: Path) -> None:
    folder = export_point(study, study.evaluation(0), tmp_path / "plain")
    assert {path.name for path in folder.iterdir()} == set(FILES)
    samples = np.eye(3, 4, dtype=np.float32)
    np.save(tmp_path / "samples.npy", samples)
    text = run(bare_python, folder / "infer.py", tmp_path / "samples.npy")
    assert "input   input: float32 (1, 4)" in text and "classes 3: cat, dog, bird" in text and "grey / 255" in text
    assert [line.split()[1] for line in text.splitlines() if re.match(r" +\d: ", line)] == list(CLASSES)
    assert "cat 100.0%" in text and re.search(r"median \d+\.\d+ ms", text) and "exit" not in text


def test_the_file_with_exits_says_where_it_stopped(study: Study, bare_python: Path, tmp_path: Path) -> None:
    folder = export_point(study, study.evaluation(1), tmp_path / "exits")
    easy, hard = np.array([8.0, 0, 0, 0], np.float32), np.array([0.2, 0.1, 0.0, 0], np.float32)
    np.save(tmp_path / "samples.npy", np.stack([easy, hard]))
    script = folder / "infer.py"
    text = run(bare_python, script, tmp_path / "samples.npy")
    assert "exit 0 (stage1) answers above a confidence of threshold0, default 0.7" in text
    assert "left at exit 0 (stage1): 50.0%" in text and "left at the end of the network: 50.0%" in text
    never = run(bare_python, script, tmp_path / "samples.npy", "--threshold", 1.5)
    assert "left at the end of the network: 100.0%" in never
    always = run(bare_python, script, "--threshold", 0)  # random numbers
    assert "left at exit 0 (stage1): 100.0%" in always and "1 sample(s), random numbers" in always


def test_a_detector_is_handed_over_with_what_makes_boxes(study: Study, bare_python: Path, tmp_path: Path) -> None:
    """The network returns what it gets: four places in the manner of YOLO, two of which show the same bird."""
    decoder = Detection("yolo").decoding()
    detector = replace(study, settings=study.settings.model_copy(update={"decoder": decoder}))
    folder = export_point(detector, study.evaluation(0), tmp_path / "detector")
    assert {path.name for path in folder.iterdir()} == {*FILES, "boxes.py"}
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 7, 8]) for name in ("rows", "same")]
    graph = helper.make_graph([helper.make_node("Identity", ["rows"], ["same"])], "same", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    (folder / "model.onnx").write_bytes(model)
    card = json.loads((folder / "card.json").read_text())
    card["point"]["sha256"] = hashlib.sha256(model).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    rows = np.zeros((2, 7, 8), np.float32)
    rows[0, :, :3] = np.array([[20, 30, 10, 8, 0, 0, 0.9], [21, 30, 10, 8, 0, 0, 0.8], [50, 5, 4, 4, 0.6, 0, 0]]).T
    np.save(tmp_path / "samples.npy", rows)
    lines = run(bare_python, folder / "infer.py", tmp_path / "samples.npy").splitlines()
    assert any("0: bird 90.0% (15.0, 26.0, 25.0, 34.0), cat 60.0% (48.0, 3.0, 52.0, 7.0) (" in line for line in lines)
    assert any("1: no box with a score of 25% or more" in line for line in lines)


def test_several_inputs_and_outputs_run_by_name(tmp_path: Path) -> None:
    from autocompress.packaging import _infer

    integers = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 3])
    number = helper.make_tensor_value_info("age", TensorProto.FLOAT, ["batch"])
    outputs = [helper.make_tensor_value_info("both", TensorProto.FLOAT, ["batch", 3])]
    outputs += [helper.make_tensor_value_info("age_out", TensorProto.FLOAT, ["batch"])]
    nodes = [
        helper.make_node("Cast", ["ids"], ["both"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["age"], ["age_out"]),
    ]
    graph = helper.make_graph(nodes, "two", [integers, number], outputs)
    (tmp_path / "model.onnx").write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    model = _infer.Model(tmp_path)
    given = {"ids": np.arange(6).reshape(2, 3), "age": np.array([7.0, 8.0])}
    first, second = (model.predict(sample).output for sample in model.samples(given))
    assert first["both"].tolist() == [0, 1, 2] and second["age_out"] == 8.0
    assert model.predict({"ids": np.zeros(3), "age": np.array(1.0)}).output["age_out"] == 1.0
    assert model.random(1, 0)[0]["ids"].tolist() == [1, 1, 1]
    assert "input   ids: int64 (1, 3)" in model.describe() and "age_out: output ()" in model.label(second)
    with pytest.raises(ValueError, match=r"has the inputs ids, age; 'age' is missing"):
        model.predict({"ids": np.zeros(3)})
    with pytest.raises(ValueError, match=r"inputs ids, age: give a mapping of arrays, or a .npz"):
        model.predict(np.zeros(3))
    with pytest.raises(ValueError, match="the same number of samples"):
        model.samples({**given, "age": np.zeros(3)})


def test_infer_works_without_the_card_and_refuses_wrong_samples(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autocompress.packaging import _infer

    folder = export_point(study, study.evaluation(1), tmp_path / "exits")
    (folder / "card.json").unlink()
    model = _infer.Model(folder)
    sample = np.array([8.0, 0, 0, 0], np.float32)
    assert model.predict(sample).exit == model.predict(sample[None]).exit == 0
    assert model.predict(sample, [2.0]).exit == 1
    np.testing.assert_allclose(model.predict(sample, [2.0]).output, [800, 0, 0])
    assert "class 0 " in model.label(model.predict(sample).output) and "default" not in model.describe()
    for wrong in (lambda: model.predict(np.zeros(5)), lambda: model.samples(np.zeros((2, 5)))):
        with pytest.raises(ValueError, match=r"samples of shape \(4\), got"):
            wrong()
    with pytest.raises(ValueError, match="has 1 thresholds, got 2"):
        model.predict(sample, [0.5, 0.5])
    done = subprocess.run([sys.executable, folder / "infer.py", "nothing.npy"], text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_the_card_says_figures_conditions_and_how_to_repeat(study: Study, tmp_path: Path) -> None:
    folder = export_point(study, study.evaluation(1), tmp_path / "exits")
    card = json.loads((folder / "card.json").read_text())
    assert card["point"]["test_accuracy"] == 0.88 and card["point"]["latency_source"] == "measured"
    assert card["conditions"]["timing"]["clock"] == "CPU time of the thread" and card["final"]
    assert card["data_sha256"] == "a1" * 32 and card["seed"] == 7 and card["versions"]["torch"] == "2.13.0"
    assert [e["threshold"] for e in card["exits"]] == [0.7, 0.0]
    assert card["task"]["classes"] == list(CLASSES) and card["task"]["preprocessing"] == "grey / 255"
    assert "recipe.yaml 'my task.py:task' --device device.yaml --seed 7" in card["reproduce"]
    text = (folder / "card.md").read_text()
    for words in (
        card["reproduce"],
        "python infer.py",
        "grey / 255",
        "CPU time of the thread",
        "| stage1 | 0.7 | 60.0% |",
    ):
        assert words in text


def test_the_card_compares_on_one_split(study: Study, tmp_path: Path) -> None:
    card = json.loads((export_point(study, study.evaluation(1), tmp_path / "one") / "card.json").read_text())
    rows = [card["point"], *card["baselines"]]
    assert {row["accuracy_split"] for row in rows if row["accuracy"] is not None} == {"test"}


def test_a_rejected_trial_cannot_be_handed_over(study: Study, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"trial 2 has no file: it was rejected \(too slow\)"):
        export_point(study, study.evaluation(2), tmp_path / "none")
    assert not (tmp_path / "none").exists()
