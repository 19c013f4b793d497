"""A sampler for Optuna problems in which all objectives but one are known before a trial is run."""

from autocompress.known_costs.knobs import Columns, Knobs
from autocompress.known_costs.sampler import KnownCostSampler

__all__ = ["Columns", "KnownCostSampler", "Knobs"]
