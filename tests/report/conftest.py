from __future__ import annotations

import pytest
from helpers.synthetic import make_study

from autocompress.studies.study import Study


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """60 candidates, front and baselines measured and scored on the test split."""
    return make_study(tmp_path_factory.mktemp("finished") / "study", 60)


@pytest.fixture(scope="session")
def exiting_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same with early exits on the front."""
    return make_study(tmp_path_factory.mktemp("exiting") / "study", 60, seed=1)


@pytest.fixture(scope="session")
def running_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """60 candidates, validation scores and predictions only."""
    return make_study(tmp_path_factory.mktemp("running") / "study", 60, final=False)


@pytest.fixture(scope="session")
def empty_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study folder in which nothing was judged yet."""
    return make_study(tmp_path_factory.mktemp("empty") / "study", 0)
