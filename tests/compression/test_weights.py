from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autocompress.compression.weights import load_weights, save_weights


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "net"
    assert load_weights(path) is None
    save_weights(path, {"model": {"weight": torch.arange(6.0).view(2, 3)}, "epoch": 3})
    kept = load_weights(path)
    assert kept is not None and kept["epoch"] == 3
    assert torch.equal(kept["model"]["weight"], torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_none_and_goes(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "net"
    save_weights(path, {"weight": torch.ones(100)})
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes({"truncated": data[: len(data) // 2], "flipped": data, "empty": b""}[damage])
    assert load_weights(path) is None and not path.exists()
