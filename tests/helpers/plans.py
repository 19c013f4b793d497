"""A calibration plan of a few small nets, and measurements of it that follow a simple law."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from autocompress.devices.calibration.measurements import Machine, Measurements, ModelTiming
from autocompress.devices.calibration.plan import EXIT_PAIR, MicroModel, plan, plan_digest
from autocompress.runtimes.adapters.onnxruntime.reader import read_workload
from autocompress.runtimes.workload import Workload


def tiny_plan() -> list[MicroModel]:
    """Ten nets and the exit pair instead of three hundred."""
    models = plan()
    return [m for m in models if m.name.split("/")[0] in {"add", "mul", "mlp"}][:10] + models[-2:]


def use_tiny_plan(monkeypatch: pytest.MonkeyPatch) -> list[MicroModel]:
    models = tiny_plan()
    for module in ("fit", "bundle"):
        monkeypatch.setattr(f"autocompress.devices.calibration.{module}.plan", lambda: models)
    return models


def workload(model: MicroModel) -> Workload:
    return read_workload(onnx.load_from_string(model.make()))


def law_ms(model: MicroModel) -> float:
    """Latency of a model on a machine that is simple to predict."""
    if model.name in EXIT_PAIR:
        return 0.01 if model.name == EXIT_PAIR[0] else 0.05
    return (5.0 + sum(2.0 + op.macs / 1e3 + op.bytes_moved / 1e4 for op in workload(model).ops)) / 1e3


def measurements(**fields: Any) -> Measurements:
    """Of the tiny plan; every third batch ran at a clock that was 10 % lower. Keywords replace fields."""
    models = tiny_plan()
    timings = []
    for k, model in enumerate(models):
        slow = 1.1 if k % 3 == 0 else 1.0
        ms = law_ms(model) * slow
        timings.append(ModelTiming(name=model.name, latency_ms=ms, reference_ms=0.5 * slow, spread=0.01, at_s=float(k)))
    data: dict[str, Any] = {
        "plan_version": 1,
        "plan_digest": plan_digest(models),
        "runtime_version": "1.20.0",
        "threads": 2,
        "machine": Machine(
            processor="Cortex-A72", instruction_set=("asimd",), int8_saturates=True, cores=4, system="Linux aarch64"
        ),
        "started": "2026-11-22T08:00:00+00:00",
        "seconds": 61.0,
        "complete": True,
        "timings": tuple(timings),
    }
    return Measurements(**{**data, **fields})
