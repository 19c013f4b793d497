from __future__ import annotations

from typing import Any

import pytest
from helpers.small import EXITS, SPACE, device, small_task, space

from autocompress.compression.analysis import NetworkAnalysis, analyze
from autocompress.controller.plan import Plan
from autocompress.errors import ConstraintError
from autocompress.evaluation.evaluator import Evaluator
from autocompress.recipes.recipe import Recipe
from autocompress.studies.constraints import Constraint, at_most
from autocompress.tasks.task import Task


@pytest.fixture(scope="module")
def parts() -> tuple[Task, NetworkAnalysis]:
    task = small_task()
    return task, analyze(task)


def plan(parts: tuple[Task, NetworkAnalysis], *constraints: Constraint, **profile: Any) -> Plan:
    target = device().model_copy(update=profile)
    return Plan.make(Evaluator(parts[0], target, analysis=parts[1]), space(SPACE), constraints, target)


def test_ram_is_a_constraint_by_default(parts: tuple[Task, NetworkAnalysis]) -> None:
    fp32 = plan(parts).evaluator.forecast(Recipe())
    need = fp32.cost.peak_memory_bytes
    tight = plan(parts, ram_bytes=need - 1)
    assert tight.rejected(fp32, tight.constraints).startswith(f"peak_memory_bytes must be at most {need - 1:g} (RAM of")
    tight.check_feasible(tight.constraints)  # pruned or quantised it fits
    assert not plan(parts, ram_bytes=need).rejected(fp32, plan(parts, ram_bytes=need).constraints)
    with pytest.raises(ConstraintError, match="impossible: peak_memory_bytes must be at most 10"):
        hopeless = plan(parts, ram_bytes=10)
        hopeless.check_feasible(hopeless.constraints)


@pytest.mark.parametrize("choice", [[16, 8, 4], [4, 8, 16]])
def test_a_limit_is_possible_if_any_bits_can_keep_it(parts: tuple[Task, NetworkAnalysis], choice: list[int]) -> None:
    bits = {"technique": "ptq", "weight_bits": {"per": "layer", "choice": choice}, "optional": True}
    stages = [{**EXITS["stages"][0], "optional": True}, SPACE["stages"][0], bits]
    evaluator = Evaluator(parts[0], device(), analysis=parts[1])
    searched = Plan.make(evaluator, space({"stages": stages}), [], device())
    fixed = ([stages[1], {**bits, "weight_bits": b}] for b in choice)
    alone = [Plan.make(evaluator, space({"stages": f}), [], device()).reach["size_bytes"] for f in fixed]
    assert max(alone) > 1.05 * min(alone)
    assert searched.reach["size_bytes"] == pytest.approx(min(alone), rel=0.01)  # its recipe is a few words longer


def test_weights_in_flash_take_no_ram(parts: tuple[Task, NetworkAnalysis]) -> None:
    on_board = plan(parts).evaluator.forecast(Recipe()).cost
    on_mcu = plan(parts, device_class="mcu").evaluator.forecast(Recipe()).cost
    assert on_mcu.peak_memory_bytes == on_board.workloads[-1].peak_activation_bytes < on_board.peak_memory_bytes


def test_energy_needs_the_power_of_the_device(parts: tuple[Task, NetworkAnalysis]) -> None:
    with pytest.raises(ConstraintError, match="does not say what the device draws; give it: --active-power-mw"):
        plan(parts, at_most("energy_mj", 1.0), active_power_mw=None)
    fp32 = plan(parts).evaluator.forecast(Recipe())
    power = 2000.0
    limit = fp32.best_case_ms * power / 1000
    fine, tight = (plan(parts, at_most("energy_mj", limit * f), active_power_mw=power) for f in (1.01, 0.99))
    assert not fine.rejected(fp32, fine.constraints)
    assert tight.rejected(fp32, tight.constraints).startswith("energy_mj must be at most")
