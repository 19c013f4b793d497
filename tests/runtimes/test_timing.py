"""The timing protocol (behaviour only, no timings)."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest

from autocompress.devices.calibration.net_builder import NetBuilder
from autocompress.errors import CandidateError
from autocompress.runtimes import timing
from autocompress.runtimes._timing import TensorSpec, example_inputs, smallest_time_ns
from autocompress.runtimes.base import Model, reference

TINY = timing.TimingProtocol(rounds=3, runs=2, warm_up=1, pause_s=0.0, max_seconds=0.05)


def net(depth: int = 1, threads: int = 1) -> Model:
    builder = NetBuilder((1, 3, 8, 8))
    out = "input"
    for _ in range(depth):
        out = builder.conv(out, 16)
    return reference().load(builder.build(out), threads)


def measure(*models: Model, **settings: float | None) -> list[timing.Timing]:
    pairs = [(model, example_inputs(model)) for model in models]
    return timing.measure(pairs, reference(), protocol=TINY, **settings)  # type: ignore[arg-type]


def test_example_inputs_are_the_same_every_time() -> None:
    first, second = example_inputs(net()), example_inputs(net())
    assert first.keys() == second.keys() == {"input"}
    assert first["input"].shape == (1, 3, 8, 8) and np.array_equal(first["input"], second["input"])


def test_inputs_of_any_type_and_size_are_made_up() -> None:
    model = net()
    model.inputs = {"a": TensorSpec((None, 3), "float16"), "b": TensorSpec(("batch", 2), "int64")}
    made = example_inputs(model)
    assert made["a"].shape == (1, 3) and made["a"].dtype == np.float16 and made["a"].any()
    assert made["b"].shape == (1, 2) and made["b"].dtype == np.int64 and not made["b"].any()
    model.inputs = {"a": TensorSpec((1,), "string")}
    with pytest.raises(TypeError, match="string"):
        example_inputs(model)


def test_wrong_inputs_are_an_error_of_the_candidate(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CandidateError, match="ONNX Runtime cannot run the model"):
        timing.measure([(net(), {"input": np.zeros((1, 5, 8, 8), np.float32)})], reference(), protocol=TINY)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [1, 2])
def test_measure_times_every_candidate_quietly(threads: int, capfd: pytest.CaptureFixture[str]) -> None:
    short, long = measure(net(1, threads), net(30, threads), threads=threads)
    for found in (short, long):
        assert found.latency_ms > 0
        assert 0 < found.p50_ms <= found.p95_ms
        assert found.n == 12 if threads == 1 else found.n >= 4, (
            "2 passes of 3 rounds of 2 runs; of 1 round by the clock"
        )
        assert found.threads == threads
        assert found.spread >= 0
        assert found.trusted == (found.spread <= timing.AGREEMENT)
    assert long.latency_ms > short.latency_ms
    assert capfd.readouterr() == ("", "")


def test_reference_ms_scales_the_result() -> None:
    (found,) = measure(timing.load_onnx(reference(), timing.reference_model()), reference_ms=1000.0)
    assert 100 < found.latency_ms < 10_000


def test_nothing_to_measure_is_no_error() -> None:
    assert timing.measure([], reference()) == []


def test_the_reference_net_never_changes() -> None:
    digest = hashlib.sha256(timing.reference_model()).hexdigest()
    timing.reference_model.cache_clear()
    assert hashlib.sha256(timing.reference_model()).hexdigest() == digest


def test_a_call_that_seems_to_take_next_to_nothing_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert smallest_time_ns([100, 104, 0, 99, 130, -5, 7]) == 99
    assert smallest_time_ns([100]) == 100
    calls = iter(range(10**6))
    clock = time.thread_time_ns

    def loses_time() -> int:  # as under a hypervisor: every 7th reading is late by half a second
        return clock() - (5 * 10**8 if next(calls) % 7 == 6 else 0)

    monkeypatch.setattr(time, "thread_time_ns", loses_time)
    (found,) = measure(net())
    assert 0 < found.latency_ms < 400
