"""Weights on disk: written all or nothing, with a checksum in front."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from autocompress.errors import AutocompressError
from autocompress.files import MODEL_BYTES, Folder


def save_weights(path: Path, state: dict[str, Any]) -> None:
    """Write tensors (and plain numbers and texts between them)."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    Folder(path.parent).write(path.name, hashlib.sha256(data).digest() + data)


def load_weights(path: Path) -> dict[str, Any] | None:
    """What was written, or None where there is nothing or the file is damaged (it is then deleted)."""
    try:
        data = Folder(path.parent).read(path.name, MODEL_BYTES)
        if data is None:
            return None
        digest, state = data[:32], data[32:]
        if hashlib.sha256(state).digest() != digest:
            raise ValueError("checksum")
        loaded: dict[str, Any] = torch.load(io.BytesIO(state), weights_only=True)
        os.utime(path)  # not touch(): another process may have removed it to make room
        return loaded
    except (ValueError, OSError, RuntimeError, EOFError, pickle.UnpicklingError, AutocompressError):
        path.unlink(missing_ok=True)
        return None
