"""Sign a hand-over folder, so that whoever has the public key knows that nobody changed it on the way.

The digests of its files are listed in SHA256SUMS (`sha256sum -c`), and that list is signed with Ed25519 in the format
of minisign, so that `minisign -V -m SHA256SUMS -p KEY.pub` checks it too. Keys are files of minisign without a
password (`minisign -G -W`), or of `new_key`. Needs `cryptography`: pip install 'autocompress[sign]'.

Checking is in `_infer`, which goes along with the folder.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

from autocompress.errors import InputError
from autocompress.files import Folder, read_file, write_atomically
from autocompress.packaging._infer import SIGNATURE, SUMS

_KEY_BYTES = 158
"""Of a secret key of minisign: algorithms, parameters of its password (unused), id, seed, public key, checksum."""


def new_key(path: Path) -> Path:
    """Make a secret key in `path`, readable by its owner only, and the public one in `path` + ".pub"; return that.

    Raises:
        InputError: there is a file already.
    """
    public_path = path.with_name(f"{path.name}.pub")
    for file in (path, public_path):
        if file.exists():
            raise InputError(f"{file}: there is a key already; choose another name")
    private = _ed25519().Ed25519PrivateKey.generate()
    seed, public = private.private_bytes_raw(), private.public_key().public_bytes_raw()
    number = secrets.token_bytes(8)
    checksum = hashlib.blake2b(b"Ed" + number + seed + public, digest_size=32).digest()
    secret = b"Ed\0\0B2" + bytes(48) + number + seed + public + checksum
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    write_atomically(path, f"untrusted comment: secret key of autocompress\n{base64.b64encode(secret).decode()}\n")
    encoded = base64.b64encode(b"Ed" + number + public).decode()
    write_atomically(public_path, f"untrusted comment: public key of autocompress\n{encoded}\n")
    return public_path


def sign_folder(folder: Folder, files: dict[str, bytes], key: Path, about: str) -> None:
    """List the digests of `files`, by name, and sign the list.

    Args:
        folder: where they lie; SHA256SUMS and its signature are written beside them.
        files: what is signed.
        key: the secret key.
        about: one line that is signed along.

    Raises:
        InputError: the key cannot be read, or has a password.
    """
    number, private = _read_key(key)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()
    signature = private.sign(hashlib.blake2b(sums).digest())
    comment = " ".join(about.split())
    overall = private.sign(signature + comment.encode())
    lines = [
        "untrusted comment: signature of autocompress",
        base64.b64encode(b"ED" + number + signature).decode(),
        f"trusted comment: {comment}",
        base64.b64encode(overall).decode(),
    ]
    folder.write(SUMS, sums)
    folder.write(SIGNATURE, "\n".join(lines) + "\n")


def _read_key(path: Path) -> tuple[bytes, Any]:
    try:
        raw = base64.b64decode(read_file(path, InputError, 4096).split(b"\n")[1], validate=True)
    except (ValueError, IndexError):
        raw = b""
    if len(raw) != _KEY_BYTES or raw[:2] != b"Ed":
        raise InputError(f"{path}: not a secret key of minisign; make one with `autocompress key {path}.new`")
    if raw[2:4] != b"\0\0":
        raise InputError(f"{path}: the key has a password; use one without (`minisign -G -W`, `autocompress key`)")
    return raw[54:62], _ed25519().Ed25519PrivateKey.from_private_bytes(raw[62:94])


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise InputError("signing needs the package cryptography: pip install 'autocompress[sign]'") from None
    return ed25519
