"""From a trained PyTorch model and a device name to a Pareto front of files you can ship."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Task": "autocompress.tasks.task",
    "TaskKind": "autocompress.tasks.kind",
    "Metric": "autocompress.tasks.metric",
    "task_from_onnx": "autocompress.given.start",
    "ImageOptions": "autocompress.tasks.images",
    "Recipe": "autocompress.recipes.recipe",
    "SearchSpace": "autocompress.recipes.space",
    "DeviceProfile": "autocompress.devices.profile",
    "Budget": "autocompress.controller",
    "Workers": "autocompress.controller",
    "Constraint": "autocompress.studies.constraints",
    "at_least": "autocompress.studies.constraints",
    "at_most": "autocompress.studies.constraints",
    "max_accuracy_drop": "autocompress.studies.constraints",
    "ParetoFront": "autocompress.studies.front",
    "Study": "autocompress.studies.study",
    "search": "autocompress.controller",
    "apply": "autocompress.evaluation.replay",
    "ablate": "autocompress.controller.ablate",
    "Runtime": "autocompress.runtimes.base",
    "Model": "autocompress.runtimes.base",
    "TensorSpec": "autocompress.runtimes.base",
    "Support": "autocompress.runtimes.capabilities",
    "Stage": "autocompress.compression.stage",
    "Phase": "autocompress.compression.stage",
    "Number": "autocompress.compression.stage",
    "TableField": "autocompress.compression.stage",
    "Candidate": "autocompress.compression.candidate",
    "Context": "autocompress.compression.candidate",
    "Workshop": "autocompress.compression.candidate",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: `import autocompress` itself loads neither torch nor optuna."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
