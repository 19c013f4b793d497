"""Latency, size and memory of tens of thousands of recipes a second, without building one of them."""

from autocompress.evaluation.screening.screen import Costs, Screen

__all__ = ["Costs", "Screen"]
