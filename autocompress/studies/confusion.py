"""Where accuracy is lost: what a file answered, class by class.

Counted when the final front is scored, kept as classes.json in the study folder. Data only: no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import StudyError
from autocompress.files import Folder, json_object
from autocompress.tasks.metric import Split
from autocompress.validation import check_version

MOST_CLASSES = 50
"""Networks with more classes keep the counts per class only, not the whole matrix."""
_FILE = "classes.json"


class Confusion(BaseModel):
    """How often a file was right in each class, and what it answered instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split
    correct: tuple[int, ...]
    """Right answers per class."""
    total: tuple[int, ...]
    """Samples per class."""
    matrix: tuple[tuple[int, ...], ...] = ()
    """Rows are true classes, columns are answers; empty with more than `MOST_CLASSES` classes."""

    @classmethod
    def count(cls, answers: NDArray[Any], truth: NDArray[Any], n_classes: int, split: Split) -> Confusion:
        """Count answers (N,) against true classes (N,), both from 0 to `n_classes` - 1."""
        pairs = np.bincount(truth.astype(np.int64) * n_classes + answers, minlength=n_classes**2)
        matrix = pairs.reshape(n_classes, n_classes)
        return cls(
            split=split,
            correct=tuple(matrix.diagonal().tolist()),
            total=tuple(matrix.sum(1).tolist()),
            matrix=tuple(map(tuple, matrix.tolist())) if n_classes <= MOST_CLASSES else (),
        )


def write_confusions(study: Path, confusions: Mapping[int, Confusion]) -> None:
    """Keep the counts of each trial; an empty mapping removes older ones."""
    if not confusions:
        Folder(study).remove(_FILE)
        return
    trials = {str(trial): c.model_dump(mode="json") for trial, c in confusions.items()}
    Folder(study).write(_FILE, json.dumps({"version": 1, "trials": trials}, separators=(",", ":")) + "\n")


def read_confusions(study: Path) -> dict[int, Confusion]:
    """The counts of each scored trial; none before the end of a search, or for other tasks than a classification.

    Raises:
        StudyError: the file is damaged or of another version.
    """
    data = Folder(study).read(_FILE)
    if data is None:
        return {}
    try:
        kept = json_object(_FILE, data)
        check_version(kept, f"{study}/{_FILE}", StudyError)
        return {int(trial): Confusion.model_validate(item) for trial, item in kept["trials"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise StudyError(f"{study}/{_FILE}: damaged ({type(error).__name__}); the report does without it") from None
