from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.small import DEVICE, EXITS, NUMERICS, SPACE, device, small_task, space
from torch.utils.data import DataLoader

from autocompress.controller.dry_run import dry_run
from autocompress.controller.duration import most_epochs
from autocompress.errors import TaskError
from autocompress.recipes.space import SearchSpace
from autocompress.studies.constraints import at_most


@pytest.mark.parametrize(("name", "epochs"), [("ptq-only", 0), ("cnn", 3), ("auto", 3), ("qat", 3 + 2)])
def test_the_longest_training_of_a_space_is_counted(name: str, epochs: int) -> None:
    slots = SearchSpace.load(name).slots
    assert sum(max(map(most_epochs, slot.alternatives)) for slot in slots) == epochs


def test_what_cannot_be_used_is_left_out_with_its_reason() -> None:
    report = dry_run(small_task(train=None), device(), space(), [])
    assert any("distill: left out: the task brings no training data" in note for note in report.left_out)
    assert report.seconds_per_epoch is None and report.seconds_per_trial > 0
    assert "an epoch" not in report.to_text()


def test_the_time_of_an_epoch_is_known_for_a_loader_without_a_length() -> None:
    data = small_task().train

    class Stream:
        def __iter__(self) -> Iterator[Any]:
            return iter(DataLoader(data, 64))

    report = dry_run(small_task(train=Stream()), device(), space(), [])
    assert report.seconds_per_epoch is not None and report.seconds_per_epoch > 0


def test_constraints_are_judged_without_training() -> None:
    report = dry_run(small_task(), device(), space(SPACE), [at_most("size_bytes", 100)])
    assert report.infeasible.startswith("impossible: size_bytes must be at most 100")
    assert report.least_bytes is not None and report.least_bytes > 100
    fine = dry_run(small_task(), device(), space(SPACE), [at_most("size_bytes", 10_000)])
    assert not fine.infeasible and fine.least_bytes is not None and fine.least_bytes < 10_000
    assert "can be met" in fine.to_text()


def test_a_network_of_convolutions() -> None:
    report = dry_run(small_task("resnet"), device(), space(EXITS), [])
    assert report.places and all(0 < share < 1 for share in report.places.values())
    assert report.n_recipes == 2 and report.to_dict()["n_recipes"] == 2
    names = [knob.name for knob in report.knobs]
    assert {"int8 everywhere", "fp16", "4-bit weights", "pruning every group by half"} <= set(names)
    text = report.to_text()
    assert all(f"\n  {name}: " in text for name in names)
    assert f"profile {DEVICE}: median error" in text and "operators of the network" in text
    assert f"{report.peak_memory_bytes:,} bytes of working memory" in text and "mJ" not in text


def test_energy_is_shown_where_the_power_is_known() -> None:
    report = dry_run(small_task(), device().model_copy(update={"active_power_mw": 3000.0}), space(NUMERICS), [])
    assert report.energy_mj == pytest.approx(3 * report.latency_ms) and "mJ" in report.to_text()


def test_a_task_that_is_wrong_is_refused() -> None:
    with pytest.raises(TaskError, match="is empty"):
        dry_run(small_task(val=[]), device(), space(NUMERICS), [])
