from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from helpers.small import DEVICE, NUMERICS, device, write_space, write_task

from autocompress import cli
from autocompress.devices.profile import DeviceProfile
from autocompress.recipes.recipe import Recipe

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def refused(self, *words: str, code: int = 2) -> None:
        """One clear message on standard error, nothing of Python."""
        assert self.code == code, self
        assert "Traceback" not in self.err
        [message] = re.findall(r"^[Ee]rror: .*", self.err, re.MULTILINE | re.DOTALL)
        assert all(word in message for word in words), message


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The entry point, with this machine not calibrated."""
    monkeypatch.setenv("AUTOCOMPRESS_HOME", str(tmp_path / "home"))

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["autocompress", *map(str, arguments)])
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return Result(code, captured.out, captured.err)

    return run


def python(code: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=True, **settings)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my_task.py, space.yaml and the study of a short search."""
    folder = tmp_path_factory.mktemp("project")
    task, space = write_task(folder), write_space(folder)
    arguments = ["search", task, "--out", str(folder / "study"), "--space", str(space), "--trials", "2"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["autocompress", *arguments, "--device", DEVICE, "--max-accuracy-drop", "0.5"])
        cli.main()
    assert end.value.code in (0, None)
    return folder


@pytest.fixture
def study(project: Path) -> Path:
    return project / "study"


def trials(study: Path) -> list[int]:
    """Three baselines, two candidates, and those that are the same networks in other number formats."""
    numbers = sorted(int(path.parent.name) for path in study.glob("trials/*/evaluation.json"))
    assert len(numbers) >= 5
    return numbers


# --------------------------------------------------------------------------------------------------- imports


def loaded(code: str, *names: str) -> set[str]:
    watched = names or ("torch", "optuna", "onnxruntime", "onnx", "pandas", "plotly")
    result = python(
        f"import sys\n{code}\nprint(*(name for name in {watched!r} if name in sys.modules), file=sys.stderr)"
    )
    return set(result.stderr.split())


def test_importing_the_package_loads_no_torch() -> None:
    assert loaded("import autocompress") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["check", "space.yaml"], ["devices"]])
def test_help_and_checks_of_files_load_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    write_space(tmp_path)
    code = f"sys.argv[1:] = {arguments!r}\nfrom autocompress import cli\ntry: cli.main()\nexcept SystemExit: pass"
    result = f"import os; os.chdir({str(tmp_path)!r})\n{code}"
    assert loaded(result) == set()


@pytest.mark.parametrize("module", ["autocompress", "autocompress.cli"])
def test_it_runs_as_a_module(module: str) -> None:
    result = subprocess.run([sys.executable, "-m", module, "--help"], text=True, capture_output=True)
    assert result.returncode == 0
    verbs = ("search", "check", "show", "watch", "compare", "diff", "export", "apply", "measure", "devices")
    assert all(verb in result.stdout for verb in verbs)


# -------------------------------------------------------------------------------------------- search and check


def test_search_prints_the_front_and_what_to_do_next(project: Path, run: Run) -> None:
    arguments = [f"{project}/my_task.py:task", "--out", project / "study", "--space", project / "space.yaml"]
    arguments += ["--trials", 2, "--device", DEVICE, "--max-accuracy-drop", 0.5]
    result = run("search", *arguments)  # the budget is used: nothing is judged, the result is printed again
    assert result.code == 0
    assert "fp32" in result.out and "candidates judged" in result.out
    assert "autocompress show" in result.out and "autocompress export" in result.out


def test_a_task_that_changes_the_folder_does_not_take_the_study_along(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path, body="    import os\n    os.chdir('elsewhere')\n    return small_task()")
    write_space(tmp_path, NUMERICS)
    arguments = ("--space", "space.yaml", "--trials", 1, "--device", DEVICE)
    assert run("search", "my_task.py:task", "--out", "study", *arguments).code == 0
    assert (tmp_path / "study" / "final.json").exists() and not list((tmp_path / "elsewhere").iterdir())


def test_search_reports_progress_on_standard_error(tmp_path: Path, run: Run) -> None:
    arguments = [write_task(tmp_path), "--out", tmp_path / "study", "--space", write_space(tmp_path, NUMERICS)]
    result = run("search", *arguments, "--trials", 1, "--device", DEVICE, "--threads", 1)
    assert result.code == 0
    for text in ("baseline fp32", "baseline int8", "ptq w"):
        assert text in result.err


@pytest.mark.parametrize("name", ["auto", "cnn", "formats", "ptq-only", "qat", "quickstart", "vit"])
def test_shipped_spaces_are_valid(run: Run, name: str) -> None:
    from autocompress.recipes.space import _SHIPPED

    [path] = [folder / f"{name}.yaml" for folder in _SHIPPED if (folder / f"{name}.yaml").exists()]
    result = run("check", path)
    assert result.code == 0 and result.out == f"{path}: a valid search space\n"


def test_check_of_a_recipe_and_of_a_device(tmp_path: Path, run: Run) -> None:
    recipe = tmp_path / "recipe.yaml"
    Recipe.parse({"stages": [{"technique": "prune", "ratio": 0.5}]}).save(recipe)
    assert "a valid recipe: prune 50%" in run("check", recipe).out
    profile = device().save(tmp_path / "board.yaml")
    assert "a valid device profile" in run("check", profile).out


@pytest.mark.parametrize(
    "stage",
    [
        {"technique": "ptq", "optional": True},
        {"one_of": [{"technique": "ptq"}, {"technique": "qat"}]},
        {"technique": "ptq", "weight_bits": {"choice": [8, 4]}},
        {"technique": "ptq", "weight_bits": {"default": 8, "stage3": {"choice": [8, 4]}}},
        {"technique": "prune", "ratio": {"per": "stage", "low": 0.0, "high": 0.5}},
    ],
)
def test_check_tells_spaces_from_recipes(tmp_path: Path, run: Run, stage: dict[str, Any]) -> None:
    assert "a valid search space" in run("check", write_space(tmp_path, {"stages": [stage]})).out


def test_check_of_a_task_is_a_dry_run(project: Path, run: Run) -> None:
    arguments = ["check", f"{project}/my_task.py:task", "--space", project / "space.yaml", "--device", DEVICE]
    text = run(*arguments).out
    for words in (
        "can be pruned",
        "quantisable layers",
        "search space:",
        "which techniques speed up this device",
        "time: about",
    ):
        assert words in text
    data = json.loads(run(*arguments, "--json", "--max-latency-ms", 0.00001).out)
    assert data["device"] == DEVICE and data["n_params"] > 0 and data["knobs"][0]["speedup"] > 0
    assert data["infeasible"].startswith("impossible: latency_ms must be at most 1e-05")
    assert data["seconds_per_trial"] > data["seconds_per_epoch"] > 0


# --------------------------------------------------------------------------------------------------------- show


def test_show_json(study: Path, run: Run) -> None:
    data = json.loads(run("show", study, "--json").out)
    assert data["final"] and data["constraints"] == ["accuracy drop at most 0.5"]
    assert [b["label"] for b in data["baselines"]] == ["fp32", "fp16", "int8"]
    assert data["n_complete"] == data["n_trials"] == len(trials(study)) and data["front"]
    for row in [*data["baselines"], *data["front"]]:
        assert {"trial", "accuracy", "accuracy_split", "latency_ms", "latency_source", "size_bytes"} <= row.keys()
        assert row["accuracy_split"] == "test" and row["latency_source"] == "predicted"
        assert (study / row["artifact"]).stat().st_size == row["size_bytes"]
        Recipe.parse(row["recipe"])
    latencies = [row["latency_ms"] for row in data["front"]]
    assert latencies == sorted(latencies)


def test_show_table_html_and_csv(study: Path, tmp_path: Path, run: Run) -> None:
    table = run("show", study).out
    assert "fp32" in table and "candidates judged" in table
    result = run("show", study, "--html", tmp_path / "report.html", "--csv", tmp_path / "trials.csv")
    assert result.out.splitlines() == [f"wrote {tmp_path}/report.html", f"wrote {tmp_path}/trials.csv"]
    assert "<html" in (tmp_path / "report.html").read_text()
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == trials(study)
    assert {"on_front", "accuracy", "latency_ms", "size_bytes"} <= rows[0].keys()


def test_show_keeps_standard_output_for_json(study: Path, tmp_path: Path, run: Run) -> None:
    result = run("show", study, "--json", "--html", tmp_path / "report.html")
    json.loads(result.out)
    assert "wrote" in result.err


# ----------------------------------------------------------------------------------------------------- retarget


def test_retarget(study: Path, tmp_path: Path, run: Run) -> None:
    text = run("retarget", study, "--device", f"{DEVICE},jetson-nano-cpu").out
    assert f"on {DEVICE}" in text and "on jetson-nano-cpu" in text and "what a choice costs elsewhere" in text
    result = run("retarget", study, "--device", DEVICE, "--json", "--html", tmp_path / "page.html")
    data = json.loads(result.out)
    assert data["devices"][0]["n_run"] == len(trials(study)) and "<html" in (tmp_path / "page.html").read_text()
    assert run("retarget", study, "--device", DEVICE, "--csv", tmp_path / "all.csv").code == 0
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + len(trials(study))


def test_retarget_refuses(study: Path, tmp_path: Path, run: Run) -> None:
    run("retarget", study, "--device", "rasberry-pi-4").refused("unknown device", "did you mean 'raspberry-pi-4'")
    run("retarget", study, "--device", ",").refused("name at least one device")
    run("retarget", tmp_path, "--device", DEVICE).refused("not a study folder")


# ------------------------------------------------------------------------------------- live, compare and diff


def test_search_in_json_lines(tmp_path: Path, run: Run) -> None:
    arguments = [write_task(tmp_path), "--out", tmp_path / "study", "--space", write_space(tmp_path, NUMERICS)]
    result = run("search", *arguments, "--trials", 1, "--device", DEVICE, "--json-lines", "--serve", "--port", 0)
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["label"] for line in lines if line["event"] == "trial"][:3] == ["fp32", "fp16", "int8"]
    assert any(line.get("message", "").startswith("watch the search at http://127.0.0.1:") for line in lines)
    assert lines[-1]["event"] == "finished" and lines[-1]["n_complete"] >= 4
    told = json.loads((tmp_path / "study/progress.json").read_text())
    assert told["ended"] == "finished" and told["budget"] == {"trials": 1, "hours": None} and told["share"] == 1


def test_a_quiet_search_prints_the_result_only(project: Path, run: Run) -> None:
    arguments = [f"{project}/my_task.py:task", "--out", project / "study", "--space", project / "space.yaml"]
    arguments += ["--trials", 2, "--device", DEVICE, "--max-accuracy-drop", 0.5]
    result = run("search", *arguments, "--quiet")
    assert result.code == 0 and result.err == "" and "fp32" in result.out
    run("search", *arguments, "--quiet", "--json-lines").refused("either --quiet or --json-lines")


def test_compare_and_diff(study: Path, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    data = json.loads(run("compare", study, copy, "--json").out)
    assert [row["name"] for row in data["studies"]] == ["study", "copy"] and data["latencies_comparable"]
    assert "have the same hypervolume" in run("compare", study, copy).out
    assert run("compare", study, copy, "--html", tmp_path / "c.html").out == f"wrote {tmp_path}/c.html\n"
    run("compare", study).refused("needs two or more studies")
    run("compare", study, tmp_path / "none").refused("none: not a study folder")

    text = run("diff", f"{study}:0", f"{copy}:2").out
    assert text.startswith(f"{study}:0 -> {copy}:2\n") and "ptq w8a8 added" in text and "size " in text
    assert json.loads(run("diff", f"{study}:0", f"{study}:2", "--json").out)["changes"] == ["ptq w8a8 added"]
    run("diff", f"{study}:0", f"{study}:99").refused("there is no trial 99")
    run("diff", study, f"{study}:0").refused("name one trial of the study")


def test_watch_refuses_what_is_not_there(tmp_path: Path, run: Run) -> None:
    run("watch", tmp_path / "none").refused("none: there is no such folder")
    run("watch", tmp_path, "--port", 70000).refused("--port must be from 0 to 65535, got 70000")


def test_a_trial_is_not_picked_again(study: Path, run: Run) -> None:
    run("export", study, "--trial", 0, "--pick", "knee").refused("either --trial, or --pick and limits")


# ---------------------------------------------------------------------------------------------- export and apply


def test_apply_reproduces_what_export_hands_over(project: Path, study: Path, tmp_path: Path, run: Run) -> None:
    result = run("export", study, "--pick", "knee", "--out", tmp_path / "edge")
    assert result.code == 0 and f"wrote {tmp_path}/edge/model.onnx" in result.out
    card = json.loads((tmp_path / "edge/card.json").read_text())
    point = card["point"]
    assert (tmp_path / "edge/model.onnx").stat().st_size == point["size_bytes"]
    onnx.checker.check_model(onnx.load(tmp_path / "edge/model.onnx"))
    text = (tmp_path / "edge/card.md").read_text()
    assert all(word in text for word in (point["sha256"], "baseline fp32", "## Conditions", "autocompress apply"))

    again = tmp_path / "again.onnx"
    assert DeviceProfile.load(tmp_path / "edge/device.yaml").latency == DeviceProfile.load(DEVICE).latency
    kept = ["--device", tmp_path / "edge/device.yaml"]
    arguments = [tmp_path / "edge/recipe.yaml", f"{project}/my_task.py:task", *kept, "--out", again]
    row = json.loads(run("apply", *arguments, "--json").out)
    for key in ("accuracy", "validation_accuracy", "size_bytes", "latency_ms", "recipe_digest"):
        assert row[key] == point[key], key
    assert again.stat().st_size == point["size_bytes"]
    human = run("apply", *arguments).out
    assert (
        f"wrote {again}: {point['size_bytes']:,} bytes" in human and f"accuracy {point['accuracy']:.4f} (test" in human
    )


def test_export_of_any_point(study: Path, tmp_path: Path, run: Run) -> None:
    baseline = run("export", study, "--trial", 0, "--out", tmp_path / "fp32")
    assert baseline.code == 0 and "trial 0: fp32" in baseline.out
    assert run("export", study, "--pick", "smallest", "--out", tmp_path / "smallest").code == 0
    default = run("export", study)
    assert "against fp32: " in default.out or "trial 0: fp32" in default.out
    accepted = run("export", study, "--pick", "smallest", "--max-accuracy-drop", 1, "--out", tmp_path / "accepted")
    assert accepted.code == 0 and re.search(
        r"against fp32: accuracy [+-]\d+\.\d points on the test split", accepted.out
    )
    assert default.code == 0 and (study / default.out.split()[1].rstrip(":")).exists() is False
    assert any(path.name.startswith("export-trial-") for path in study.iterdir())


def test_a_file_that_is_gone_is_reported(study: Path, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    for file in copy.glob("trials/*/*.onnx"):
        file.unlink()
    run("export", copy, "--pick", "knee").refused("the file of trial", "is gone; repeat it from its recipe with")


# -------------------------------------------------------------------------------------------- devices and measure


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """A calibration that takes no time; returns what it was asked for."""
    asked = []

    def calibrate_host(
        threads: int, seconds: float, progress: Callable[[float, str], None], runtime: str
    ) -> DeviceProfile:
        assert runtime == "onnxruntime"
        asked.append((threads, seconds))
        progress(0.5, "conv")
        own = {"name": "host", "threads": threads, "transferred_from": ""}
        calibration = device().calibration
        assert calibration is not None
        return device().model_copy(update=own | {"calibration": calibration.model_copy(update={"degree": "full"})})

    monkeypatch.setattr("autocompress.devices.calibration.fit.calibrate_host", calibrate_host)
    return asked


def test_devices(run: Run) -> None:
    assert all(name in run("devices").out for name in ("raspberry-pi-4", "jetson-nano-cpu", "rk3566"))
    names = [row["name"] for row in json.loads(run("devices", "list", "--json").out)]
    assert f"{DEVICE}.ncnn" in names and "host" not in names
    assert "measured" in run("devices", "show", DEVICE).out
    assert DeviceProfile.parse(json.loads(run("devices", "show", DEVICE, "--json").out)) == device()


def test_calibrate_writes_a_profile(run: Run, tmp_path: Path, calibrated: list[tuple[int, float]]) -> None:
    result = run("devices", "calibrate", "my-board", "--threads", 2, "--seconds", 5)
    assert calibrated == [(2, 5.0)]
    path = tmp_path / "home/devices/my-board.yaml"
    assert result.code == 0 and f"wrote {path}" in result.out
    assert DeviceProfile.load("my-board").threads == 2
    run("devices", "calibrate", "../escape").refused("letters, digits", "'../escape'")
    assert run("devices", "calibrate", "--threads", 0).code == 2
    assert len(calibrated) == 1


def test_this_machine_is_calibrated_when_everything_else_is_known_to_be_right(
    run: Run, tmp_path: Path, calibrated: list[tuple[int, float]]
) -> None:
    broken = write_task(tmp_path, "broken_task", "    return small_task(val=None)")
    run("check", broken).refused("a task needs validation data")
    assert not calibrated
    result = run("check", write_task(tmp_path), "--space", write_space(tmp_path))
    assert result.code == 0 and calibrated == [(1, 60.0)]
    assert "this machine has no profile yet: calibrating it once" in result.err
    assert run("check", write_task(tmp_path), "--space", write_space(tmp_path)).code == 0
    assert len(calibrated) == 1


def test_measure(run: Run, study: Path, calibrated: list[tuple[int, float]]) -> None:
    assert run("devices", "calibrate").code == 0
    text = run("measure", study / "trials/000002/model.onnx").out
    assert "measured here" in text and "whole file" in text and "predicted" in text
    data = json.loads(run("measure", study / "trials/000000/model.onnx", "--json").out)
    assert data["latency_ms"] > 0 and data["latency_source"] == "measured" and len(data["paths"]) == 1


def test_a_study_refines_the_profile_of_this_machine(
    run: Run, study: Path, tmp_path: Path, calibrated: list[tuple[int, float]]
) -> None:
    refine = ("devices", "calibrate", "--like", "host", "--measured")
    assert run("devices", "calibrate").code == 0
    before = DeviceProfile.load("host")
    run(*refine, study).refused("a study of the device", DEVICE, "not of 'host'")
    mine = Path(shutil.copytree(study, tmp_path / "mine"))
    settings = json.loads((mine / "study.json").read_text())
    settings["device"]["name"] = "host"
    (mine / "study.json").write_text(json.dumps(settings))
    run(*refine, mine).refused("nothing was measured in it")
    final = json.loads((mine / "final.json").read_text())
    for point in final["points"]:
        point["measured_latency_ms"] = 100.0
    (mine / "final.json").write_text(json.dumps(final))
    done = run(*refine, mine)
    assert done.code == 0 and "then moved to latencies of your own files" in done.out
    after = DeviceProfile.load("host")
    assert after.is_this_machine and after.calibration is not None and before.calibration is not None
    assert after.calibration.degree == before.calibration.degree
    assert after.calibration.points > before.calibration.points
    file = study / final["points"][0]["artifact"]
    predicted = json.loads(run("measure", file, "--json").out)["predicted_latency_ms"]
    assert predicted == pytest.approx(100.0, rel=0.2)


def test_measure_refuses(run: Run, study: Path, tmp_path: Path, calibrated: list[tuple[int, float]]) -> None:
    run("measure", tmp_path / "none.onnx").refused("none.onnx: there is no such file")
    assert not calibrated
    run("measure", study / "trials/000000/model.onnx", "--device", DEVICE).refused("use --device host")
    (tmp_path / "text.onnx").write_text("not a model")
    run("measure", tmp_path / "text.onnx").refused("text.onnx", "cannot load")
    words = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.STRING, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "words", words[:1], words[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "words.onnx",
    )
    run("measure", tmp_path / "words.onnx").refused("words.onnx: inputs must be numbers", "got string")
    assert run("measure", study / "trials/000000/model.onnx", "--threads", 0).code == 2
    run("measure", study / "trials/000000/model.onnx", "--shape", "input=1x2").refused(
        "input=1x2 does not fit the input"
    )


# ----------------------------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages: [", ["not valid YAML at line"]),
        ("stages:\n  - technique: prnue\n", ["unknown technique 'prnue' (did you mean 'prune'?)"]),
        ("stages:\n  - technique: prune\n    ratoi: 0.5\n", ["stages.0", "ratoi", "did you mean 'ratio'?"]),
        ("stages:\n  - technique: prune\n    ratio: 1.5\n", ["ratio", "less than 1", "1.5"]),
        ("stages:\n  - technique: prune\n    ratio: {low: 0.5, high: 0.1}\n", ["stages.0.ratio"]),
        ("stages:\n  - technique: prune\n    ratio: {low: 0.0, high: 3.0}\n", ["ratio"]),
        ("stages: 5\n", ["stages", "5"]),
        ("[1, 2]\n", ["must be a mapping", "list"]),
        ("", ["must be a mapping"]),
        ("version: 9\nstages: []\n", ["version must be 1, got 9"]),
        ("staeges: []\n", ["staeges", "did you mean 'stages'?"]),
    ],
)
def test_wrong_yaml(tmp_path: Path, run: Run, text: str, words: list[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    run("check", path).refused(str(path), *words)


def test_files_that_cannot_be_read(tmp_path: Path, run: Run) -> None:
    run("check", tmp_path / "none.yaml").refused("none.yaml: cannot be read: No such file or directory")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    run("check", tmp_path / "binary.yaml").refused("binary.yaml", "not UTF-8")


# ----------------------------------------------------------------------------------------------------- wrong tasks

_TASKS = {
    "raises": ("    raise ValueError('no data here')", ["task() raised ValueError: no data here", "line "]),
    "exits": ("    raise SystemExit(1)", ["task() raised SystemExit"]),
    "wrong_type": ("    return 42", ["must be a Task or a function that returns one, got int"]),
    "no_model": ("    return small_task().__class__(model=3, example_input=torch.zeros(1, 2))", ["torch.nn.Module"]),
    "no_validation": ("    return small_task(val=None)", ["a task needs validation data"]),
    "empty": ("    return small_task(val=[])", ["validation data: is empty"]),
    "labels": (
        "    t = small_task()\n    t.val.tensors[1][0] = 99\n    return t",
        ["validation data: labels must be from 0 to", "got 99"],
    ),
    "training_labels": (
        "    t = small_task()\n    t.train.tensors[1][:] = -1\n    return t",
        ["train data: labels must be from 0 to", "got -1"],
    ),
    "shape": (
        "    return small_task(example_input=torch.zeros(1, 7))",
        ["the model does not run on example_input (1, 7)"],
    ),
    "loss": (
        "    return small_task(loss=lambda outputs, targets: outputs.no_such_thing())",
        ["the loss of a training batch raised AttributeError"],
    ),
}


@pytest.mark.parametrize("name", _TASKS)
@pytest.mark.parametrize("verb", ["check", "search"])
def test_wrong_tasks(tmp_path: Path, run: Run, verb: str, name: str) -> None:
    body, words = _TASKS[name]
    reference = write_task(tmp_path, f"task_{name}", body)
    out = ["--out", tmp_path / "study", "--trials", 1] if verb == "search" else []
    run(verb, reference, "--device", DEVICE, *out).refused(*words)
    assert not (tmp_path / "study").exists()


def test_tasks_that_are_not_there(tmp_path: Path, run: Run) -> None:
    reference = write_task(tmp_path)
    run("check", reference.replace(":task", ":tusk"), "--device", DEVICE).refused("has no 'tusk'")
    run("check", tmp_path / "none.py:task", "--device", DEVICE).refused("there is no file", "none.py")
    run("check", "no_such_module:task", "--device", DEVICE).refused("no_such_module", "ModuleNotFoundError")
    (tmp_path / "syntax.py").write_text("def task(:\n")
    run("check", f"{tmp_path}/syntax.py:task", "--device", DEVICE).refused("importing it raised SyntaxError")


def test_a_model_that_cannot_be_exported(tmp_path: Path, run: Run) -> None:
    body = (
        "    class Branchy(nn.Linear):\n"
        "        def forward(self, x):\n"
        "            return super().forward(x if float(x.sum()) > 0 else -x)\n"
        "    return small_task().__class__.classification(Branchy(4, 3), example_input=torch.zeros(1, 4),\n"
        "        val=[(torch.zeros(2, 4), torch.tensor([0, 1]))])"
    )
    reference = write_task(tmp_path, "task_branchy", body)
    space = write_space(tmp_path, NUMERICS)
    for arguments in (["check", reference], ["search", reference, "--out", tmp_path / "study", "--trials", 1]):
        run(*arguments, "--space", space, "--device", DEVICE).refused("cannot be")


# --------------------------------------------------------------------------------------------------- wrong options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials", 0], ["trials must be at least 1, got 0"]),
        (["--hours", -1], ["hours must be above 0, got -1"]),
        (["--hours", "nan"], ["hours must be above 0, got nan"]),
        ([], ["a search needs a budget"]),
        (["--trials", 1, "--max-latency-ms", -1], ["latency_ms", "at least 0, got -1"]),
        (["--trials", 1, "--max-size-bytes", 0], ["size_bytes", "above 0"]),
        (["--trials", 1, "--max-memory-bytes", 0], ["peak_memory_bytes", "above 0"]),
        (["--trials", 1, "--max-memory-bytes", 10], ["impossible: peak_memory_bytes must be at most 10"]),
        (["--trials", 1, "--max-energy-mj", 5], ["energy_mj at most 5", "give it: --active-power-mw"]),
        (["--trials", 1, "--active-power-mw", 0], ["--active-power-mw must be a number above 0, got 0"]),
        (["--trials", 1, "--min-accuracy", "nan"], ["accuracy", "got nan"]),
        (["--trials", 1, "--min-accuracy", 1.5], ["accuracy", "impossible"]),
        (["--trials", 1, "--min-speedup", 0], ["--min-speedup must be a number above 0, got 0"]),
        (["--trials", 1, "--min-compression", -2], ["--min-compression must be a number above 0, got -2"]),
        (["--trials", 1, "--max-latency-ms", 0.00001], ["impossible: latency_ms must be at most 1e-05", "loosen it"]),
        (["--trials", 1, "--device", "rasberry-pi-4"], ["unknown device", "did you mean 'raspberry-pi-4'"]),
        (["--trials", 1, "--space", "cn"], ["no search space 'cn'", "did you mean 'cnn'", "shipped ones:"]),
        (["--trials", 1, "--sampler", "nsga"], ["unknown sampler 'nsga'", "did you mean 'nsga2'"]),
        (["--trials", 1, "--workers", 0], ["number of workers must be at least 1, got 0"]),
        (["--trials", 1, "--executor", "rey"], ["unknown executor 'rey'", "did you mean 'ray'"]),
        (["--trials", 1, "--trial-timeout-minutes", 0], ["must be above 0 minutes, got 0"]),
        (["--trials", 1, "--storage", "trials.db"], ["not the URL of a database"]),
        (["--trials", 1, "--seed", -1], ["--seed"]),
        (["--trials", 1, "--threads", 0], ["--threads"]),
        (["--trials", "many"], ["--trials", "integer"]),
        (["--no-such-option"], ["No such option"]),
    ],
)
def test_wrong_options(project: Path, tmp_path: Path, run: Run, options: list[object], words: list[str]) -> None:
    fixed = ["--out", tmp_path / "study", "--device", DEVICE, "--space", project / "space.yaml"]
    run("search", f"{project}/my_task.py:task", *fixed, *options).refused(*words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sampler", "nsga"], "unknown sampler"),
        (["--evaluator", "elastik"], "unknown evaluator"),
        (["--out", TESTS], "is not empty and not a study"),
    ],
)
def test_what_needs_no_task_is_refused_before_it_is_loaded(
    tmp_path: Path, run: Run, options: list[object], words: str
) -> None:
    module = tmp_path / "never.py"
    module.write_text("raise SystemExit('loaded')")
    fixed = ["--out", tmp_path / "study", "--device", DEVICE, "--trials", 1]
    run("search", f"{module}:task", *fixed, *options).refused(words)


# --------------------------------------------------------------------------------------------------- wrong studies


def test_wrong_studies(project: Path, study: Path, tmp_path: Path, run: Run) -> None:
    run("show", tmp_path / "none").refused("none: not a study folder")
    run("export", tmp_path, "--pick", "knee").refused("not a study folder")
    run("export", study, "--pick", "best").refused(
        "no point called 'best'; known: knee, fastest, smallest, most-accurate"
    )
    run("export", study, "--trial", 99).refused(f"there is no trial 99; it has {len(trials(study))} of them")
    run("export", study, "--max-latency-ms", 1e-6).refused("no point of the front meets these limits")

    future = tmp_path / "future"
    shutil.copytree(study, future)
    settings = json.loads((future / "study.json").read_text())
    (future / "study.json").write_text(json.dumps({**settings, "version": 2}))
    run("show", future).refused("version must be 1, got 2", "another version of autocompress")
    (future / "study.json").write_text("{")
    run("show", future).refused("study.json: cannot be read")


def test_a_study_with_other_inputs_names_the_difference(project: Path, study: Path, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    task, fixed = f"{project}/my_task.py:task", ["--out", copy, "--trials", 3, "--space", project / "space.yaml"]
    drop = ["--max-accuracy-drop", 0.5]
    run("search", task, *fixed, *drop, "--device", DEVICE, "--seed", 7).refused("seed: the study has 0, now 7")
    run("search", task, *fixed, *drop, "--device", "rk3566").refused("device: the study has raspberry-pi-4, now rk3566")
    run("search", task, *fixed, "--device", DEVICE).refused("constraints: the study has")
    other = write_task(tmp_path, "other_task", "    return small_task(n=128)")
    run("search", other, *fixed, *drop, "--device", DEVICE).refused(
        "the train data changed; the validation data changed", "or another --out with --start-from"
    )


def test_out_that_holds_something_else(project: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "precious").write_text("x")
    fixed = ["--trials", 1, "--device", DEVICE, "--space", project / "space.yaml"]
    run("search", f"{project}/my_task.py:task", "--out", tmp_path, *fixed).refused("is not empty and not a study")
    run("search", f"{project}/my_task.py:task", "--out", tmp_path / "precious", *fixed).refused(
        "precious: cannot be used as a study folder: File exists"
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"precious", "home"}


def test_apply_refuses(project: Path, tmp_path: Path, run: Run) -> None:
    task, out = f"{project}/my_task.py:task", tmp_path / "model.onnx"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"stages": [{"technique": "ptq", "weight_bits": {"nowhere": 4}}]}))
    run("apply", recipe, task, "--out", out, "--device", DEVICE).refused("no layer or stage 'nowhere'", code=1)
    run("apply", tmp_path / "none.yaml", task, "--out", out, "--device", DEVICE).refused("cannot be read")
    assert not out.exists()


def test_a_bug_is_one_sentence_that_says_where_its_traceback_is(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError("ours to mend")

    monkeypatch.setattr("autocompress.studies.study.Study.open", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("show", project / "study").refused("a bug of autocompress: RuntimeError: ours to mend", code=1)
    [log] = tmp_path.glob("autocompress-*.log")
    assert log.read_text().startswith("Traceback") and "in broken" in log.read_text()


def test_the_exported_file_runs_by_itself(study: Path, tmp_path: Path, run: Run) -> None:
    assert run("export", study, "--pick", "most-accurate", "--out", tmp_path).code == 0
    code = (
        "import numpy as np, onnxruntime, sys\n"
        f"session = onnxruntime.InferenceSession({str(tmp_path / 'model.onnx')!r})\n"
        "outputs = session.run(None, {'input': np.zeros((1, 24), np.float32)})\n"
        "print(len(outputs[0]), 'autocompress' in sys.modules, 'torch' in sys.modules)"
    )
    assert python(code).stdout.split() == ["1", "False", "False"]
