from __future__ import annotations

import pytest
from helpers.small import device, small_task

from autocompress.compression.analysis import NetworkAnalysis, analyze
from autocompress.compression.gains import Knob
from autocompress.devices.profile import DeviceProfile
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.gains import GainEstimator
from autocompress.recipes.recipe import Recipe
from autocompress.tasks.task import Task


@pytest.fixture(scope="module")
def parts() -> tuple[Task, NetworkAnalysis]:
    task = small_task("resnet")
    return task, analyze(task)


def on(parts: tuple[Task, NetworkAnalysis], target: DeviceProfile) -> dict[str, Knob]:
    return {knob.name: knob for knob in GainEstimator(Evaluator(parts[0], target, analysis=parts[1])).knobs()}


def accelerator(*formats: str, **changes: object) -> DeviceProfile:
    latency = {"any": {name: {"us_per_mmac": 100.0, "us_per_mb_in": 10.0} for name in formats}}
    provenance = {"kind": "measured", "source": "a test"}
    return DeviceProfile.parse({"name": "npu", "latency": latency, "provenance": provenance, **changes})


def test_factors_are_those_of_the_forecasts(parts: tuple[Task, NetworkAnalysis]) -> None:
    found = on(parts, device())
    evaluator = Evaluator(parts[0], device(), analysis=parts[1])
    base = evaluator.forecast(Recipe())
    int8 = evaluator.forecast(Recipe.parse({"stages": [{"technique": "ptq", "weight_bits": 8}]}))
    assert found["int8 everywhere"].speedup == pytest.approx(base.worst_case_ms / int8.worst_case_ms)
    assert found["int8 everywhere"].shrink == pytest.approx(base.size_bytes / int8.size_bytes)
    exits = [knob for name, knob in found.items() if name.startswith("an exit after")]
    speedups = [knob.speedup for knob in exits if knob.speedup is not None]
    assert exits and speedups == sorted(speedups, reverse=True) and speedups[0] > 1
    assert "samples that take none" in exits[0].note


def test_every_stage_has_its_own_line(parts: tuple[Task, NetworkAnalysis]) -> None:
    found = on(parts, device())
    stages = set(parts[1].groups.values())
    assert {f"pruning {stage} by half" for stage in stages if len(stages) > 1} <= found.keys()
    notes = {stage: found[f"pruning {stage} by half"].note for stage in stages}
    assert notes.keys() == {"stage1", "stage2", "stage3"}
    assert "nothing was removed: all widths stay" in notes["stage1"]  # 8 channels, in steps of 8
    assert "of the time" in notes["stage2"] and "of the time" in notes["stage3"]
    assert (found["pruning every group by half"].speedup or 0) > 1


def test_what_does_not_pay_is_said(parts: tuple[Task, NetworkAnalysis]) -> None:
    fp16 = on(parts, device())["fp16"]
    assert fp16.speedup == pytest.approx(1.0, abs=0.02)
    assert fp16.text().startswith("fp16: no faster here (1.00x), 1.")
    assert not Knob("x", 1.0, 1.04, 1.0).pays and Knob("x", 0.9, 1.06).pays
    assert Knob("x", 0.5, 2.0).text() == "x: slower here (0.50x), 2.00x smaller"


def test_what_the_runtime_cannot_execute_is_said(parts: tuple[Task, NetworkAnalysis]) -> None:
    found = on(parts, accelerator("int8", "float32", runtime="rknn"))
    assert found["4-bit weights"].text() == "4-bit weights: not possible: rknn executes weights of 8 and 32 bits only"
    assert found["early exits"].note == "not possible: rknn does not execute If operators"
    assert "quantises again" in found["int8 everywhere"].note
    integers = on(parts, accelerator("int8", runtime="edgetpu"))
    assert integers["int8 everywhere"].text() == (
        "int8 everywhere: always: the device executes int8 only; factors below are against it"
    )
    assert "executes weights of 8 bits" in integers["fp16"].note
    unmeasured = on(parts, accelerator("float32"))
    assert "no int8 measurements" in unmeasured["int8 everywhere"].note


def test_steps_of_widths(parts: tuple[Task, NetworkAnalysis]) -> None:
    stepped = on(parts, accelerator("float32", channel_block=4))
    assert stepped["widths"].text().startswith("widths: in steps of 4; removing 1 channel more than a step ")
    assert "widths" not in on(parts, accelerator("float32", channel_block=1))


def test_how_far_the_profile_can_be_trusted(parts: tuple[Task, NetworkAnalysis]) -> None:
    def trust(target: DeviceProfile) -> str:
        return GainEstimator(Evaluator(parts[0], target, analysis=parts[1])).trust()

    assert trust(accelerator("float32")) == (
        "profile npu: its error is not known; it knows all operators of the network"
    )
    convs = {kind: {"float32": {"us_per_mmac": 1.0}} for kind in ("conv", "elementwise")}
    lacking = trust(accelerator("float32", latency=convs, caveats=["int8 was moved to it"]))
    assert "rough: it does not know" in lacking and "linear/float32" in lacking
    assert lacking.endswith("; int8 was moved to it")
    assert "median error" in trust(device())


def test_widths_that_take_an_export_each_are_not_tried_part_by_part(
    parts: tuple[Task, NetworkAnalysis], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert GainEstimator(Evaluator(parts[0], device(), analysis=parts[1])).rebinds
    monkeypatch.setattr("autocompress.graphs.export.rebind", lambda template, model: template)  # widths are in it
    found = on(parts, device())
    assert "an export of its own" in found["pruning one part by half"].note
    assert "pruning stage2 by half" not in found
