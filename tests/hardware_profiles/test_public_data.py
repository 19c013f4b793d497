"""The joint fit behind the shipped profiles, on data made up here: it must recover what made the data."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.devices import cost_model

sys.path.insert(0, str(Path(__file__).parents[2] / "hardware_profiles"))

from public_data import hierarchy, networks
from public_data.collection import Collection, Target, profiles
from public_data.hierarchy import RUN, Settings, Term
from public_data.readme import write_table

TERMS = (
    Term("run", 100.0, ((RUN, "float32", "overhead_us", 1.0),)),
    Term("dense", 100.0, (("conv", "float32", "us_per_mmac", 1.0), ("conv1x1", "float32", "us_per_mmac", 1.0))),
    Term("stem", 100.0, (("conv_stem", "float32", "us_per_mmac", 1.0),)),
    Term("depthwise", 100.0, (("depthwise", "float32", "us_per_mmac", 1.0),)),
    Term("linear", 100.0, (("linear", "float32", "us_per_mb_weights", 1.0),)),
)
TRUE = np.array([300.0, 80.0, 160.0, 400.0, 250.0])
WORKS = {
    f"v1-{w}@{side}": networks.mobilenet_v1(w, side, "float32") for w in (0.25, 0.5, 1.0) for side in (96, 160, 224)
}
WORKS |= {f"v2-{w}": networks.mobilenet_v2(w, 192, "float32") for w in (0.35, 0.5, 1.0, 1.4)}


def collection(n_rich: int = 5) -> Collection:
    """Devices of different speed with the same ratios; the last one ran two networks only."""
    work = np.array([hierarchy.term_work(TERMS, w, 1) for w in WORKS.values()]) / 1e3
    targets = []
    for d in range(n_rich + 1):
        names = list(WORKS) if d < n_rich else list(WORKS)[:2]
        ms = {name: float(work[list(WORKS).index(name)] @ TRUE) * 2.0**d for name in names}
        targets.append(Target(f"device-{d}", "made up", ms, "2026-01-01", {"measured_with": "a formula"}))
    settings = Settings(noise=0.05, rounds=20)
    return Collection(
        "a formula", "none", TERMS, WORKS, tuple(targets), settings=settings, free=("pool", "elementwise")
    )


def test_a_device_with_two_points_borrows_the_ratios_of_the_others() -> None:
    made = collection()
    found = hierarchy.fit(made.pool(), made.settings)
    work = made.pool().work
    for d in (0, 5):
        predicted = work @ found[d]
        assert np.allclose(predicted, work @ TRUE * 2.0**d, rtol=0.1)


def test_a_profile_predicts_what_the_fit_predicts() -> None:
    made = collection()
    profile = profiles(made)[1]
    found = hierarchy.fit(made.pool(), made.settings)
    for name, predicted in zip(WORKS, made.pool().work @ found[1], strict=True):
        assert cost_model.predict(profile, WORKS[name]).latency_ms == pytest.approx(predicted, rel=1e-3)


def test_held_out_networks_are_not_seen_on_any_device() -> None:
    made = collection()
    name = "v2-1.4"
    spoilt = [
        Target(t.name, t.description, {**t.ms, **({name: 1e6} if name in t.ms else {})}, t.date, t.profile)
        for t in made.targets
    ]
    other = replace(made, targets=tuple(spoilt))
    column = list(WORKS).index(name)
    assert np.allclose(made.held_out()[0, column], other.held_out()[0, column])


def test_networks_have_their_published_sizes() -> None:
    published = {
        "v1": (networks.mobilenet_v1(1.0, 224, "float32"), 569e6, 4.2e6),
        "v2": (networks.mobilenet_v2(1.0, 224, "float32"), 301e6, 3.4e6),
        "resnet8": (networks.resnet_cifar(1, "float32"), 12.5e6, 78e3),
        "ds_cnn": (networks.ds_cnn("float32"), 2.66e6, 24e3),
        "autoencoder": (networks.autoencoder("float32"), 264e3, 267e3),
    }
    for work, macs, parameters in published.values():
        assert work.macs == pytest.approx(macs, rel=0.05)
        assert work.weight_bytes / 4 == pytest.approx(parameters, rel=0.08)


def test_the_table_replaces_only_itself(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Before\n")
    made = profiles(collection())
    write_table(readme, made)
    first = readme.read_text()
    readme.write_text(first + "after\n")
    write_table(readme, made[:1])
    text = readme.read_text()
    assert text.startswith("# Before\n") and text.endswith("after\n")
    assert "device-0" in text and "device-1" not in text and "device-1" in first
