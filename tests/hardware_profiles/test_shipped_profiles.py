"""Every shipped profile: it loads, says what it is, stands in the README, and predicts in the right order."""

from __future__ import annotations

import itertools
from functools import cache

import pytest

from autocompress.devices import cost_model
from autocompress.devices.profile import DeviceProfile, shipped_profiles_folder
from autocompress.runtimes.workload import KINDS, Op, Workload

FOLDER = shipped_profiles_folder()
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def profile(name: str) -> DeviceProfile:
    return DeviceProfile.load(FOLDER / f"{name}.yaml")


def conv(kind: str, dtype: str, cin: int, cout: int, side: int, kernel: int) -> Op:
    size = 1 if dtype == "int8" else 4
    each = 1 if kind == "depthwise" else cin
    return Op(
        kind,
        dtype,
        f"{kind}{cin}",
        macs=side * side * cout * each * kernel**2,
        bytes_in=side * side * cin * size,
        bytes_out=side * side * cout * size,
        bytes_weights=cout * each * kernel**2 * size,
        cin=cin,
        cout=cout,
        kernel=(kernel, kernel),
        groups=cin if kind == "depthwise" else 1,
        out_hw=side * side,
    )


def resnet(width: int, dtype: str) -> Workload:
    """Like ResNet-18: 3x3 convolutions whose channels double as the side halves."""
    ops = [conv("conv", dtype, 3, width, 56, 7)]
    for stage in range(4):
        channels = width << stage
        ops += [conv("conv", dtype, channels, channels, 56 >> stage, 3) for _ in range(4)]
        ops.append(Op("elementwise", dtype, f"add{stage}", bytes_in=8 * channels, bytes_out=4 * channels))
    return Workload(tuple(ops))


def mobilenet(width: int, dtype: str) -> Workload:
    """Like MobileNet: depthwise and 1x1 convolutions in turn."""
    ops = [conv("conv", dtype, 3, width, 112, 3)]
    for stage in range(4):
        channels = width << stage
        ops.append(conv("depthwise", dtype, channels, channels, 56 >> stage, 3))
        ops.append(conv("conv1x1", dtype, channels, 2 * channels, 56 >> stage, 1))
    return Workload(tuple(ops))


def test_at_least_220_configurations_are_shipped() -> None:
    classes = {profile(name).device_class for name in NAMES}
    assert len(NAMES) >= 220
    assert {"board", "phone", "computer", "gpu", "npu", "mcu", "fpga"} <= classes


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_says_what_it_is_and_how_good(name: str) -> None:
    p = profile(name)
    c = p.calibration
    assert p.name == name and p.description and p.processor and p.measured_with
    assert c is not None and c.held_out > 0 and 0 < c.median_error <= c.p90_error
    assert len(c.held_out_ms) == c.held_out <= c.points
    assert p.provenance.source and p.provenance.licence and p.caveats
    assert p.support.way and p.dtypes
    if p.flash_bytes or p.ram_bytes or p.cache_bytes:
        assert p.provenance.datasheet, "figures that were not measured are labelled"


def test_the_table_of_the_readme_holds_every_profile_and_its_error() -> None:
    table = (FOLDER / "README.md").read_text(encoding="utf-8").partition("<!-- table")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")] for row in rows}
    for name in NAMES:
        c = profile(name).calibration
        assert c is not None and f"{c.median_error:.1%}" in cells[name]
    assert len([row for row in cells if row != "name"]) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wider_networks_are_slower(name: str) -> None:
    p = profile(name)
    for network, dtype in itertools.product((resnet, mobilenet), p.dtypes):
        estimates = [cost_model.predict(p, network(width, dtype)) for width in (16, 32, 64)]
        times = [e.latency_ms for e in estimates]
        assert 0 < times[0] < times[1] < times[2]
        assert all(e.in_domain and e.low_ms < e.latency_ms < e.high_ms for e in estimates)


def test_cpu_profiles_do_not_claim_to_know_transformers() -> None:
    for p in map(profile, NAMES):
        for kind in ("gelu", "norm", "attention"):
            work = Workload((Op(kind, "float32", "x", macs=100, bytes_in=4096, bytes_out=4096, cin=4, cout=4),))
            if p.device_class in ("board", "phone", "computer"):
                assert not cost_model.predict(p, work).in_domain, p.name


def test_every_operator_has_a_price() -> None:
    for p, dtype in itertools.product(map(profile, NAMES), ("float32", "int8")):
        ops = tuple(Op(k, dtype, k, macs=64, bytes_in=64, bytes_out=64, cin=8, cout=8, kernel=(3, 3)) for k in KINDS)
        assert cost_model.predict(p, Workload(ops)).latency_ms > 0


def test_channels_that_do_not_fit_the_blocks_are_no_bargain_and_no_cliff() -> None:
    for p in map(profile, NAMES):
        dtype = min(p.dtypes)
        fitting, odd = (Workload((conv("conv1x1", dtype, cin, 64, 28, 1),)) for cin in (64, 62))
        ratio = cost_model.predict(p, odd).latency_ms / cost_model.predict(p, fitting).latency_ms
        assert 0.95 < ratio <= 1.001, f"{p.name}: a cost that no data show"


def test_readme_is_reachable_from_the_package() -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8").startswith("# Device profiles")
