"""The score of every sample, kept beside each file of a study: with them two files are compared sample by sample.

One bit a sample where all scores are 0 or 1 (right or wrong), else float32. Data only: no torch.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.files import Folder
from autocompress.tasks.metric import Split

_MOST_BYTES = 2**28
"""Of one file: the scores of 64 million samples."""


def write_sample_scores(study: Path, artifact: str, split: Split, scores: NDArray[Any]) -> None:
    """Keep the scores (N,) of a study's file `artifact` on a split."""
    buffer = io.BytesIO()
    if np.isin(scores, (0.0, 1.0)).all():
        np.savez(buffer, bits=np.packbits(scores.astype(bool)), n=len(scores))
    else:
        np.savez(buffer, values=scores.astype(np.float32))
    Folder(study).write(_name(artifact, split), buffer.getvalue())


def read_sample_scores(study: Path, artifact: str, split: Split) -> NDArray[np.float64] | None:
    """The kept scores (N,); None where there are none, or they cannot be read."""
    try:
        data = io.BytesIO(Folder(study).read(_name(artifact, split), _MOST_BYTES) or b"")
        with zipfile.ZipFile(data) as parts:
            if sum(part.file_size for part in parts.infolist()) > _MOST_BYTES:
                return None
        with np.load(data, allow_pickle=False) as kept:
            if "bits" in kept:
                return np.unpackbits(kept["bits"], count=int(kept["n"])).astype(np.float64)
            return np.asarray(kept["values"], np.float64)
    except Exception:  # whatever zipfile, zlib and numpy say about a damaged file
        return None


def _name(artifact: str, split: Split) -> str:
    path = PurePosixPath(artifact)
    return str(path.with_name(f"{path.stem}.{split}.npz")) if path.name else artifact
