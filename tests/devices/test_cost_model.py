"""The linear latency model: fitting, predicting, staying honest about what it lacks."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.devices.cost_model import fit, op_us, per_op_ms, predict
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import DeviceError
from autocompress.runtimes.workload import Op, Workload


def _profile(latency: dict[str, object], **fields: object) -> DeviceProfile:
    return DeviceProfile.parse(
        {"name": "t", "latency": latency, "provenance": {"kind": "datasheet", "source": "test"}, **fields}
    )


def _conv(channels: int, pixels: int, dtype: str = "float32", kind: str = "conv1x1") -> Op:
    itemsize = 1 if dtype == "int8" else 4
    return Op(
        kind,
        dtype,
        f"{kind}-{channels}-{pixels}",
        macs=channels * channels * pixels,
        bytes_in=channels * pixels * itemsize,
        bytes_out=channels * pixels * itemsize,
        bytes_weights=channels * channels * itemsize,
        cin=channels,
        cout=channels,
        kernel=(1, 1),
        out_hw=pixels,
    )


def test_prediction_is_the_stated_formula() -> None:
    cost = {"overhead_us": 2.0, "us_per_mmac": 10.0, "us_per_mb_in": 5.0, "us_per_mb_weights": 1.0}
    profile = _profile({"conv1x1": {"float32": cost}}, run_overhead_us=3.0)
    op = _conv(16, 100)
    expected_us = 3 + 2 + 10 * op.macs / 1e6 + 5 * op.bytes_in / 1e6 + op.bytes_weights / 1e6
    estimate = predict(profile, Workload((op,)))
    assert estimate.latency_ms == pytest.approx(expected_us / 1e3)
    assert estimate.in_domain
    assert estimate.low_ms < estimate.latency_ms < estimate.high_ms


def test_per_op_times_sum_to_the_prediction_without_the_call() -> None:
    profile = _profile(
        {"conv1x1": {"float32": {"overhead_us": 2.0, "us_per_mmac": 10.0}}},
        run_overhead_us=3.0,
        if_overhead_us=7.0,
        cache_bytes=1000,
        us_per_mb_beyond_cache=50.0,
    )
    work = Workload((_conv(16, 10), _conv(32, 50), Op("if", "float32", "exit")))
    total = sum(ms for _, ms in per_op_ms(profile, work))
    assert total + 3.0 / 1e3 == pytest.approx(predict(profile, work).latency_ms)


def test_more_work_never_costs_less() -> None:
    profile = _profile({"conv1x1": {"float32": {"overhead_us": 1.0, "us_per_mmac": 5.0, "us_per_mb_out": 3.0}}})
    times = [predict(profile, Workload((_conv(c, 64),))).latency_ms for c in (8, 16, 32, 64, 128)]
    assert times == sorted(times)
    assert all(ms > 0 for ms in times)


def test_a_missing_kind_uses_the_nearest_and_says_so() -> None:
    profile = _profile({"conv": {"float32": {"us_per_mmac": 5.0}}})
    estimate = predict(profile, Workload((_conv(16, 100, "int8", "depthwise"),)))
    assert not estimate.in_domain
    assert estimate.missing == ("depthwise/int8",)
    assert estimate.latency_ms > 0


def test_a_kind_with_nothing_near_is_an_error() -> None:
    profile = _profile({"norm": {"float32": {"overhead_us": 1.0}}})
    with pytest.raises(DeviceError, match="no latency coefficients for 'conv1x1'"):
        predict(profile, Workload((_conv(16, 100),)))


def test_channels_off_the_block_use_their_own_coefficients() -> None:
    costs = {"float32": {"us_per_mmac": 5.0}}
    profile = _profile({"conv1x1": costs, "conv1x1_unaligned": {"float32": {"us_per_mmac": 50.0}}})
    slow = predict(profile, Workload((_conv(63, 100),))).latency_ms
    fast = predict(profile, Workload((_conv(64, 100),))).latency_ms
    assert slow > 5 * fast


def _int8(kind: str, cin: object, cout: object, kernel: tuple[int, ...]) -> Op:
    return Op(kind, "int8", "c", macs=10**6, cin=cin, cout=cout, kernel=kernel, out_hw=64)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "cin", "cout", "kernel", "name"),
    [
        ("conv", 16, 24, (3, 3), ""),
        ("conv", 3, 24, (7, 7), "conv_gemm"),
        ("conv", 18, 24, (3, 3), "conv_gemm"),
        ("conv", 16, 20, (3, 3), "conv_gemm"),
        ("conv1x1", 16, 8, (1, 1), "conv1x1_gemm"),
        ("conv", 1, 32, (80,), "conv_1d_gemm"),
        ("conv", 16, 32, (9,), "conv_1d"),
    ],
)
def test_int8_convolutions_that_are_copied_to_products_have_their_own_costs(
    kind: str, cin: int, cout: int, kernel: tuple[int, ...], name: str
) -> None:
    costs = {k: {"int8": {"overhead_us": float(us)}} for us, k in enumerate((kind, name or "other"), 1)}
    work = Workload((_int8(kind, cin, cout, kernel),))
    estimate = predict(_profile(costs), work)
    assert estimate.in_domain and estimate.latency_ms == pytest.approx(2e-3 if name else 1e-3)
    coarse = predict(_profile({kind: {"int8": {"overhead_us": 1.0}}}), work)
    assert coarse.in_domain == (len(kernel) == 2) and coarse.latency_ms == pytest.approx(1e-3)


def test_many_widths_at_once_cost_what_each_costs_alone() -> None:
    keys = ("conv", "conv_gemm", "conv_3x3s1", "conv_stem", "conv_unaligned")
    costs = {k: {"int8": {"overhead_us": 3.0 * n, "us_per_mstep": n}} for n, k in enumerate(keys, 1)}
    profile = _profile(costs, channel_block=16)
    cin, cout = np.array([3, 16, 18, 32]), np.array([16, 24, 32, 20])
    together, missing = op_us(profile, _int8("conv", cin, cout, (3, 3)))
    alone = [op_us(profile, _int8("conv", a, b, (3, 3)))[0] for a, b in zip(cin.tolist(), cout.tolist(), strict=True)]
    assert not missing and together == pytest.approx(alone) and len(set(alone)) == 2


def test_fit_recovers_known_coefficients() -> None:
    truth = _profile(
        {
            "conv1x1": {
                "float32": {"overhead_us": 2.0, "us_per_mmac": 8.0, "us_per_mb_in": 20.0},
                "int8": {"overhead_us": 3.0, "us_per_mmac": 2.0, "us_per_mb_out": 100.0},
            },
            "depthwise": {"float32": {"overhead_us": 1.0, "us_per_mmac": 30.0}},
        },
        run_overhead_us=4.0,
    )
    rng = np.random.default_rng(0)
    works = []
    for _ in range(120):
        ops = [
            _conv(
                int(rng.choice([8, 16, 64, 128])),
                int(rng.choice([1, 16, 256, 1024])),
                *(("float32", "conv1x1"), ("int8", "conv1x1"), ("float32", "depthwise"))[int(rng.integers(3))],
            )
            for _ in range(int(rng.integers(1, 6)))
        ]
        works.append(Workload(tuple(ops)))
    found = fit([(work, predict(truth, work).latency_ms) for work in works], ridge=0.0)
    assert found.run_overhead_us == pytest.approx(4.0, rel=0.02)
    assert found.latency["conv1x1"]["float32"].us_per_mmac == pytest.approx(8.0, rel=0.05)
    assert found.latency["conv1x1"]["int8"].overhead_us == pytest.approx(3.0, rel=0.05)
    assert found.latency["depthwise"]["float32"].overhead_us == pytest.approx(1.0, rel=0.1)


def test_one_wild_point_does_not_spoil_the_fit() -> None:
    works = [Workload((_conv(c, p),)) for c in (8, 16, 32, 64, 128) for p in (16, 64, 256, 1024)]
    truth = _profile({"conv1x1": {"float32": {"overhead_us": 2.0, "us_per_mmac": 8.0}}})
    points = [(work, predict(truth, work).latency_ms) for work in works]
    points[3] = (points[3][0], points[3][1] * 10)
    found = fit(points)
    profile = _profile({k: {d: c.model_dump() for d, c in v.items()} for k, v in found.latency.items()})
    profile = profile.model_copy(update={"run_overhead_us": found.run_overhead_us})
    errors = [abs(predict(profile, w).latency_ms / ms - 1) for k, (w, ms) in enumerate(points) if k != 3]
    assert np.median(errors) < 0.05


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_fit_refuses_impossible_latencies(ms: float) -> None:
    with pytest.raises(DeviceError, match="positive latency"):
        fit([(Workload((_conv(8, 8),)), ms)])


def test_tiles_are_fitted_on_request_only() -> None:
    rng = np.random.default_rng(0)
    truth = _profile(
        {"conv1x1": {"float32": {"us_per_mmac": 5.0, "us_per_mstep": 300.0, "us_per_mmac_lone": 4.0}}},
        channel_block=16,
        run_overhead_us=2.0,
    )
    works = [Workload((_conv(int(rng.integers(1, 300)), int(rng.integers(4, 900))),)) for _ in range(120)]
    points = [(work, predict(truth, work).latency_ms) for work in works]
    plain, tiled = fit(points, 16), fit(points, 16, tiling=True)
    assert plain.latency["conv1x1"]["float32"].us_per_mstep == 0
    found = truth.model_copy(update={"latency": tiled.latency, "run_overhead_us": tiled.run_overhead_us})
    assert np.median([abs(predict(found, work).latency_ms / ms - 1) for work, ms in points]) < 0.03


def test_views_and_epilogues_cost_nothing_where_the_profile_does_not_know_them() -> None:
    conv = {"conv1x1": {"float32": {"us_per_mmac": 10.0}}}
    more = {kind: {"float32": {"overhead_us": 3.0}} for kind in ("view", "epilogue")}
    extra = (Op("view", "float32", "v"), Op("epilogue", "float32", "e", bytes_in=64, bytes_out=64))
    op = _conv(16, 100)
    old, new = _profile(conv), _profile(conv | more)
    assert predict(old, Workload((op, *extra))) == predict(old, Workload((op,)))
    assert predict(new, Workload((op, *extra))).latency_ms == pytest.approx(
        predict(old, Workload((op,))).latency_ms + 6e-3
    )


def _old_profile(**fields: object) -> DeviceProfile:
    """Knows 2-D networks, in a format of their own or in that of any kind."""
    kinds = ("conv", "conv1x1", "depthwise", "grouped", "linear", "elementwise", "movement", "pool")
    return _profile({kind: {d: {"overhead_us": 1.0} for d in ("float32", "int8")} for kind in kinds}, **fields)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    ("kind", "kernel", "lacks"),
    [
        ("conv", (3, 3, 3), "conv_3d"),
        ("conv1x1", (1,), "conv1x1_1d"),
        ("depthwise", (9,), "depthwise_1d"),
        ("conv_transpose", (4, 4), "conv_transpose"),
        ("embedding", (), "embedding"),
        ("lstm", (), "lstm"),
        ("gru", (), "gru"),
        ("resize_linear", (), "resize_linear"),
        ("group_norm", (), "group_norm"),
    ],
)
def test_kinds_that_a_profile_never_saw_are_out_of_domain(
    kind: str, kernel: tuple[int, ...], lacks: str, dtype: str
) -> None:
    work = Workload((Op(kind, dtype, "x", macs=640, bytes_in=64, cin=16, cout=16, kernel=kernel, out_hw=4),))
    anything = _profile({"any": {d: {"overhead_us": 1.0} for d in ("float32", "int8")}})
    for profile in (_old_profile(), anything):
        estimate = predict(profile, work)
        assert not estimate.in_domain and estimate.latency_ms > 0
        assert f"{lacks}/{dtype}" in estimate.missing
        assert estimate.reasons[0].startswith("the profile has no costs of its own for ")
    own = _profile({lacks: {dtype: {"overhead_us": 5.0}}, kind: {dtype: {"overhead_us": 5.0}}})
    assert predict(own, work).in_domain and predict(own, work).latency_ms == pytest.approx(5e-3)


def test_odd_channels_are_in_domain_only_where_they_were_measured() -> None:
    costs = {"conv1x1_unaligned": {"float32": {"us_per_mmac": 5.0}}}
    calibration = {"points": 9, "median_error": 0.1, "p90_error": 0.2, "date": "2026-01-01"}
    guessed = _profile(costs, calibration={**calibration, "degree": "none"})
    measured = _profile(costs, calibration={**calibration, "degree": "full"})
    odd = Workload((_conv(63, 100),))
    assert not predict(guessed, odd).in_domain and predict(measured, odd).in_domain
    assert predict(guessed, odd).latency_ms == predict(measured, odd).latency_ms


def test_a_look_up_costs_what_it_reads_not_its_table() -> None:
    profile = _profile(
        {"embedding": {"float32": {"overhead_us": 1.0, "us_per_mb_out": 100.0}}},
        cache_bytes=1000,
        us_per_mb_beyond_cache=1e6,
    )
    small, large = (
        Workload((Op("embedding", "float32", "e", bytes_in=64, bytes_out=512, bytes_weights=n),))
        for n in (10**4, 10**8)
    )
    assert predict(profile, small) == predict(profile, large)
    assert large.peak_memory_bytes() == 10**8


def test_recurrent_layers_cost_by_steps_and_by_what_waits_for_the_step_before() -> None:
    op = Op("lstm", "float32", "r", macs=50 * 4 * 32 * (16 + 32), cin=16, cout=32, groups=2, out_hw=50)
    assert op.recurrent_macs == 50 * 4 * 32 * 32
    cost = {"us_per_mmac": 10.0, "us_per_mstep": 1e5, "us_per_mmac_lone": 20.0}
    profile = _profile({"lstm": {"float32": cost}})
    expected_us = 10 * op.macs / 1e6 + 1e5 * 100 / 1e6 + 20 * op.recurrent_macs / 1e6
    assert predict(profile, Workload((op,))).latency_ms == pytest.approx(expected_us / 1e3)


def test_what_was_assumed_is_out_of_domain() -> None:
    profile = _profile({"conv1x1": {"float32": {"us_per_mmac": 5.0}}})
    estimate = predict(profile, Workload((_conv(16, 100),), 0, ("the size of 'y' (NonZero) depends on the data",)))
    assert not estimate.in_domain and estimate.reasons == ("the size of 'y' (NonZero) depends on the data",)


def test_resizing_costs_by_what_it_writes_and_constants_are_dequantised_at_a_cost_of_their_own() -> None:
    costs = {"us_per_mb_in": 100.0, "us_per_mb_out": 10.0}
    profile = _profile(
        {k: {"float32": costs} for k in ("resize", "dequantize")} | {"dequantize_weights": {"float32": {}}}
    )
    resize = Op("resize", "float32", "r", bytes_in=10**6, bytes_out=10**6)
    assert predict(profile, Workload((resize,))).latency_ms == pytest.approx(0.01)
    activation, weights = (
        Op("dequantize", "float32", "d", bytes_in=a, bytes_out=10**6, bytes_weights=b)
        for a, b in ((10**6, 0), (0, 10**6))
    )
    assert predict(profile, Workload((activation,))).latency_ms == pytest.approx(0.11)
    assert predict(profile, Workload((weights,))).latency_ms == 0


def test_each_of_many_convolutions_with_a_residual_costs_what_it_costs_alone() -> None:
    cost = {name: {"float32": {"us_per_mmac": us}} for name, us in (("conv", 9.0), ("conv_3x3s1", 2.0))}
    profile, cin, cout = _profile(cost), np.array([16, 8, 4]), 16  # the residual is read, too: 2, 3 and 5 times cin

    def conv(cin: int) -> Op:
        macs = 9 * cin * cout * 100
        sizes = {"bytes_in": 400 * (cin + cout), "bytes_out": 400 * cout, "bytes_weights": 36 * cin * cout}
        return Op("conv", "float32", "c", macs=macs, **sizes, cin=cin, cout=cout, kernel=(3, 3), out_hw=100)

    together = op_us(profile, conv(cin))[0]  # type: ignore[arg-type]
    assert list(together) == pytest.approx([op_us(profile, conv(int(n)))[0] for n in cin])
    assert together[0] / cin[0] < together[1] / cin[1]
