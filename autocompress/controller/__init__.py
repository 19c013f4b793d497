"""The search: one driver owns the study, asks Optuna for recipes and has them evaluated."""

from autocompress.controller.driver import search
from autocompress.controller.executors.base import Workers
from autocompress.controller.plan import Budget

__all__ = ["Budget", "Workers", "search"]
