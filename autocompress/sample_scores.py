"""The score of every sample, kept beside each file of a study: with them two files are compared sample by sample.

One bit a sample where all scores are 0 or 1 (right or wrong), else float32. Data only: no torch.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress._files import write_atomically
from autocompress.results import Split


def write_sample_scores(artifact: Path, split: Split, scores: NDArray[Any]) -> None:
    """Keep the scores (N,) of the file `artifact` on a split."""
    buffer = io.BytesIO()
    if np.isin(scores, (0.0, 1.0)).all():
        np.savez(buffer, bits=np.packbits(scores.astype(bool)), n=len(scores))
    else:
        np.savez(buffer, values=scores.astype(np.float32))
    write_atomically(_path(artifact, split), buffer.getvalue())


def read_sample_scores(artifact: Path, split: Split) -> NDArray[np.float64] | None:
    """The kept scores (N,); None where there are none, or they cannot be read."""
    try:
        with np.load(_path(artifact, split), allow_pickle=False) as kept:
            if "bits" in kept:
                return np.unpackbits(kept["bits"], count=int(kept["n"])).astype(np.float64)
            return np.asarray(kept["values"], np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _path(artifact: Path, split: Split) -> Path:
    return artifact.with_name(f"{artifact.stem}.{split}.npz")
