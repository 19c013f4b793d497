"""Predicting latency from a device profile, and fitting the profile."""

from autocompress.latency.linear import LatencyEstimate, LinearFit, fit, per_op_ms, predict

__all__ = ["LatencyEstimate", "LinearFit", "fit", "per_op_ms", "predict"]
