"""Samplers by name: `ehvi`, which knows the costs (see `autocompress.known_costs`), and those of Optuna.

Each proposal is seeded by (seed, trial number): it depends on the history of the study only, so that an interrupted
search goes on exactly as it would have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import optuna

from autocompress.errors import InputError
from autocompress.validation import suggestion

_STARTUP_TRIALS = 8

_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
DEFAULT = "ehvi"
NAMES = (DEFAULT, *_SAMPLERS)


def check_name(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in NAMES:
        raise InputError(f"unknown sampler {name!r}{suggestion(name, NAMES)}; known: {', '.join(NAMES)}")


def sampler(name: str, seed: int, trial: int) -> optuna.samplers.BaseSampler:
    """A sampler of Optuna for one trial."""
    entropy = np.random.SeedSequence([seed, trial]).generate_state(1)[0]
    return _SAMPLERS[name](int(entropy))


def sampler_of(
    name: str, seed: int, ehvi: Callable[[], optuna.samplers.BaseSampler]
) -> Callable[[int], optuna.samplers.BaseSampler]:
    """From the number of a trial to its sampler; `ehvi` makes the one of that name."""
    if name == DEFAULT:
        one = ehvi()
        return lambda trial: one
    return partial(sampler, name, seed)
