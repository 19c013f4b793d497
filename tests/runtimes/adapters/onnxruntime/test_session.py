"""ONNX Runtime sessions and the timing protocol (behaviour only, no timings)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from autocompress.devices.calibration.plan import NetBuilder
from autocompress.errors import CandidateError
from autocompress.runtimes._timing import smallest_time_ns
from autocompress.runtimes.adapters.onnxruntime import session as runtime

TINY = runtime.TimingProtocol(rounds=3, runs=2, warm_up=1, pause_s=0.0, max_seconds=0.05)


def _net(depth: int = 1) -> bytes:
    net = NetBuilder((1, 3, 8, 8))
    out = "input"
    for _ in range(depth):
        out = net.conv(out, 16)
    return net.build(out)


def test_run_gives_the_outputs_and_a_path_works(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(_net())
    session = runtime.session(path)
    feed = runtime.example_feed(session)
    (result,) = runtime.run(session, feed)
    assert result.shape == (1, 16, 8, 8)
    assert np.array_equal(result, runtime.run(runtime.session(_net()), feed)[0])


def test_example_feed_is_the_same_every_time() -> None:
    session = runtime.session(_net())
    first, second = runtime.example_feed(session), runtime.example_feed(session)
    assert first.keys() == second.keys() == {"input"}
    assert np.array_equal(first["input"], second["input"])


def test_a_broken_model_is_a_candidate_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CandidateError, match="ONNX Runtime cannot load the model"):
        runtime.session(b"not a model")
    assert capfd.readouterr() == ("", "")


def test_a_wrong_feed_is_a_candidate_error(capfd: pytest.CaptureFixture[str]) -> None:
    session = runtime.session(_net())
    wrong = {"input": np.zeros((1, 5, 8, 8), np.float32)}
    with pytest.raises(CandidateError, match="cannot run the model"):
        runtime.run(session, wrong)
    with pytest.raises(CandidateError, match="cannot run the model"):
        runtime.measure([(session, wrong)], protocol=TINY)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [1, 2])
def test_measure_times_every_candidate_quietly(threads: int, capfd: pytest.CaptureFixture[str]) -> None:
    sessions = [runtime.session(_net(depth), threads) for depth in (1, 30)]
    pairs = [(s, runtime.example_feed(s)) for s in sessions]
    short, long = runtime.measure(pairs, threads=threads, protocol=TINY)
    for timing in (short, long):
        assert timing.latency_ms > 0
        assert 0 < timing.p50_ms <= timing.p95_ms
        assert timing.n == 12 if threads == 1 else timing.n >= 4, (
            "2 passes of 3 rounds of 2 runs; of 1 round by the clock"
        )
        assert timing.threads == threads
        assert timing.spread >= 0
        assert timing.trusted == (timing.spread <= runtime.AGREEMENT)
    assert long.latency_ms > short.latency_ms
    assert capfd.readouterr() == ("", "")


def test_reference_ms_scales_the_result() -> None:
    session = runtime.session(runtime.reference_model())
    pair = (session, runtime.example_feed(session))
    (timing,) = runtime.measure([pair], protocol=TINY, reference_ms=1000.0)
    assert 100 < timing.latency_ms < 10_000


def test_nothing_to_measure_is_no_error() -> None:
    assert runtime.measure([]) == []


def test_the_reference_net_never_changes() -> None:
    import hashlib

    digest = hashlib.sha256(runtime.reference_model()).hexdigest()
    runtime.reference_model.cache_clear()
    assert hashlib.sha256(runtime.reference_model()).hexdigest() == digest


def test_a_call_that_seems_to_take_next_to_nothing_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert smallest_time_ns([100, 104, 0, 99, 130, -5, 7]) == 99
    assert smallest_time_ns([100]) == 100
    calls = iter(range(10**6))
    clock = time.thread_time_ns

    def loses_time() -> int:  # as under a hypervisor: every 7th reading is late by half a second
        return clock() - (5 * 10**8 if next(calls) % 7 == 6 else 0)

    monkeypatch.setattr(time, "thread_time_ns", loses_time)
    session = runtime.session(_net())
    (timing,) = runtime.measure([(session, runtime.example_feed(session))], protocol=TINY)
    assert 0 < timing.latency_ms < 400
