from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest
from helpers.synthetic import make_study

from autocompress.report.importance import ENOUGH, importances
from autocompress.studies.study import Study


def with_trials(folder: Path, n: int, derived: int = 0) -> Study:
    """A study in whose journal `strong` decides about accuracy, `weak` about nothing."""
    study = make_study(folder / "study", 0)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(study.path / "study.journal"))
    made = optuna.create_study(
        study_name="autocompress",
        storage=optuna.storages.JournalStorage(backend),
        directions=["maximize", "minimize", "minimize"],
    )
    rng, unit = random.Random(0), optuna.distributions.FloatDistribution(0, 1)
    for i in range(n + derived):
        params = {"strong": rng.random(), "weak": rng.random()}
        made.add_trial(
            optuna.create_trial(
                params=params,
                distributions={"strong": unit, "weak": unit},
                values=[params["strong"], rng.random(), rng.random()],
                user_attrs={"derived_from": 0} if i >= n else {},
            )
        )
    return study


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_knob_that_decides_is_found_and_chance_is_named(tmp_path: Path) -> None:
    found, why_not = importances(with_trials(tmp_path, 60))
    assert why_not == ""
    shares = {(i.objective, i.knob): i for i in found}
    assert len(shares) == 6
    assert shares["accuracy", "strong"].share > 0.8 and shares["accuracy", "strong"].beyond_chance
    assert not shares["accuracy", "weak"].beyond_chance
    for objective in ("accuracy", "latency", "size"):
        assert sum(i.share for i in found if i.objective == objective) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_too_few_candidates_are_said(tmp_path: Path) -> None:
    found, why_not = importances(with_trials(tmp_path, ENOUGH - 1, derived=10))
    assert found == [] and why_not == "Knob importance needs 30 evaluated candidates; this study has 29."


def test_a_study_without_a_journal(tmp_path: Path) -> None:
    found, why_not = importances(make_study(tmp_path / "study", 0))
    assert found == [] and "no journal" in why_not and not (tmp_path / "study" / "study.journal").exists()
