"""Hand-over folders that are signed, and what changes are noticed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.errors import InputError
from autocompress.files import Folder
from autocompress.packaging._infer import verify
from autocompress.packaging.signing import new_key, sign_folder

FILES = {"model.onnx": b"weights", "infer.py": b"print()", "card.json": b"{}"}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def signed(tmp_path: Path, key: Path) -> Path:
    for name, content in FILES.items():
        Folder(tmp_path / "out").write(name, content)
    sign_folder(Folder(tmp_path / "out"), FILES, key, "trial 3 of s, ptq")
    return tmp_path / "out"


def test_what_was_signed_is_verified_with_the_public_key_or_its_line(signed: Path, key: Path) -> None:
    public = key.with_name("key.pub")
    assert verify(signed, str(public)) == verify(signed, public.read_text().splitlines()[1]) == "trial 3 of s, ptq"
    assert key.stat().st_mode & 0o777 == 0o600


def _replace(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes().replace(old, new))


CHANGES = {
    "model": (_replace("model.onnx", b"w", b"W"), "model.onnx: changed after it was signed"),
    "script": (_replace("infer.py", b"print", b"pwned"), "infer.py: changed after it was signed"),
    "list": (_replace("SHA256SUMS", b"0", b"1"), "the signature does not match"),
    "remark": (_replace("SHA256SUMS.minisig", b"trial 3", b"trial 4"), "the signature does not match"),
    "signature": (_replace("SHA256SUMS.minisig", b"RU", b"??"), "not one of minisign"),
    "cut": (lambda folder: (folder / "SHA256SUMS.minisig").write_text("x"), "not a signature of minisign"),
    "unsigned": (lambda folder: (folder / "SHA256SUMS.minisig").unlink(), "not signed: it has no"),
    "added": (lambda folder: (folder / "numpy.py").write_text("evil"), "numpy.py: not among the files"),
    "bytecode": (lambda folder: (folder / "__pycache__").mkdir(), "__pycache__: not among the files"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(signed: Path, key: Path, change: str) -> None:
    act, words = CHANGES[change]
    act(signed)
    with pytest.raises(ValueError, match=words):
        verify(signed, str(key.with_name("key.pub")))


def test_another_key_is_not_taken_for_it(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="signed with another key"):
        verify(signed, str(new_key(tmp_path / "other")))
    with pytest.raises(ValueError, match="the public key is not one of minisign"):
        verify(signed, "RWQ")


def test_keys_that_cannot_be_used_are_named(tmp_path: Path, key: Path) -> None:
    with pytest.raises(InputError, match="there is a key already"):
        new_key(key)
    raw = base64.b64decode(key.read_text().splitlines()[1])
    locked = base64.b64encode(raw[:2] + b"Sc" + raw[4:]).decode()
    for text, words in ((f"untrusted comment: x\n{locked}\n", "has a password"), ("x", "not a secret key")):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(InputError, match=words):
            sign_folder(Folder(tmp_path), {}, tmp_path / "bad", "")
