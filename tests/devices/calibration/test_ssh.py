"""Calibration over SSH, against a real sshd on loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.plans import use_tiny_plan

from autocompress.devices.calibration import ssh as remote
from autocompress.devices.calibration.bundle import read_result, write_bundle
from autocompress.devices.calibration.ssh import Address, run_over_ssh
from autocompress.errors import DeviceError, MeasurementError

pytest.importorskip("paramiko")
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="OpenSSH's sshd is not installed")


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port of an sshd that accepts one key, and the home folder of a client that has it."""
    folder = tmp_path_factory.mktemp("sshd")
    ssh = folder / "home/.ssh"
    ssh.mkdir(parents=True)
    _key(ssh / "id_ed25519")
    _key(folder / "host_key")
    shutil.copyfile(ssh / "id_ed25519.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd drops its privileges
    settings = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host_key'}",
        f"AuthorizedKeysFile {folder / 'authorized_keys'}",
        "StrictModes no",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PidFile none",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "config").write_text("\n".join(settings) + "\n")
    assert SSHD is not None
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    host_key = (folder / "host_key.pub").read_text().split()[:2]
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port, folder / "home"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with an empty .ssh and no agent."""
    (tmp_path / "home/.ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "home"


@pytest.fixture
def login(server: tuple[int, Path], home: Path) -> Address:
    """Address of the server, whose key is known and which knows ours."""
    shutil.copytree(server[1] / ".ssh", home / ".ssh", dirs_exist_ok=True)
    return Address("127.0.0.1", getpass.getuser(), server[0])


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_plan(monkeypatch)
    return write_bundle(tmp_path / "bundle")


def quiet(text: str) -> None:
    pass


def is_clean(said: list[str]) -> bool:
    """The folder that was made on the device is gone."""
    [folder] = [line.rpartition(" to ")[2] for line in said if "copying" in line]
    return folder.startswith("/tmp/autocompress.") and not Path(folder).exists()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("pi@board", Address("board", "pi")),
        ("board:2222", Address("board", None, 2222)),
        ("pi@10.0.0.7:22", Address("10.0.0.7", "pi", 22)),
        ("pi@[fe80::1]:22", Address("fe80::1", "pi", 22)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address


@pytest.mark.parametrize("text", ["", "a b", "pi@", "@board", "pi@board:ssh", "board:0", "board:99999", "-oProxy=x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(DeviceError, match=r"--ssh must be \[user@\]host\[:port\]"):
        Address.parse(text)


@needs_sshd
def test_a_device_of_the_ssh_config_is_measured_and_left_clean(login: Address, home: Path, bundle: Path) -> None:
    (home / ".ssh/id_ed25519").rename(home / ".ssh/board_key")
    lines = ("Host board", f"HostName {login.host}", f"Port {login.port}", f"User {login.user}")
    (home / ".ssh/config").write_text("\n".join([*lines, "IdentityFile ~/.ssh/board_key"]) + "\n")
    said: list[str] = []
    content = run_over_ssh(Address("board"), bundle, sys.executable, 1, 1.0, said.append)
    (home / "result.json").write_bytes(content)
    measured = read_result(home / "result.json", accept_unsteady=True)
    assert measured.complete and len(measured.timings) == 12
    assert any("12 of 12 models" in line for line in said) and any("onnxruntime" in line for line in said)
    assert is_clean(said)


@needs_sshd
def test_an_interrupt_stops_the_run_and_leaves_the_device_clean(login: Address, bundle: Path) -> None:
    said: list[str] = []
    seconds = 9 + os.getpid() / 1e7  # to know the process by

    def interrupt(text: str) -> None:
        said.append(text)
        if "models" in text:
            raise KeyboardInterrupt

    script = bundle / "run.py"
    script.write_text(script.read_text().replace("BATCH = 12", "BATCH = 2"))
    with pytest.raises(KeyboardInterrupt):
        run_over_ssh(login, bundle, sys.executable, 1, seconds, interrupt)
    assert is_clean(said)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"--seconds {seconds:g}" not in running


@needs_sshd
def test_an_unknown_or_changed_host_key_is_refused(login: Address, home: Path, bundle: Path, tmp_path: Path) -> None:
    known = home / ".ssh/known_hosts"
    _key(tmp_path / "other")
    known.write_text(f"[127.0.0.1]:{login.port} {' '.join((tmp_path / 'other.pub').read_text().split()[:2])}\n")
    with pytest.raises(DeviceError, match="shows another key than"):
        run_over_ssh(login, bundle, sys.executable, 1, 1.0, quiet)
    known.unlink()
    with pytest.raises(DeviceError, match="connect once with ssh and accept it"):
        run_over_ssh(login, bundle, sys.executable, 1, 1.0, quiet)


@needs_sshd
def test_keys_that_are_not_accepted(login: Address, home: Path, bundle: Path) -> None:
    key = home / ".ssh/id_ed25519"
    key.unlink()
    (home / ".ssh/id_ed25519.pub").unlink()
    with pytest.raises(DeviceError, match="there is no key to show"):
        run_over_ssh(login, bundle, sys.executable, 1, 1.0, quiet)
    _key(key)
    with pytest.raises(DeviceError, match="accepts none of your keys; 'ssh-copy-id"):
        run_over_ssh(login, bundle, sys.executable, 1, 1.0, quiet)


@needs_sshd
def test_interpreters_that_cannot_be_used(login: Address, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="there is no 'python9' there; name the interpreter with --python"):
        run_over_ssh(login, bundle, "python9", 1, 1.0, quiet)
    bare = tmp_path / "bare python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(DeviceError, match=r"has no numpy; run there: .* -m pip install numpy onnxruntime"):
        run_over_ssh(login, bundle, str(bare), 1, 1.0, quiet)


@needs_sshd
def test_a_run_that_fails_there(login: Address, bundle: Path) -> None:
    said: list[str] = []
    (bundle / "models.zip").write_bytes(b"")
    with pytest.raises(MeasurementError, match=r"ended with code 1 there: error: the bundle .* cannot be used"):
        run_over_ssh(login, bundle, sys.executable, 1, 1.0, said.append)
    assert is_clean(said)


def test_a_host_that_cannot_be_reached(home: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=f"127.0.0.1:{port}: cannot be reached on port {port}"):
            run_over_ssh(Address("127.0.0.1", "pi", port), tmp_path, "python3", 1, 1.0, quiet)
    with pytest.raises(DeviceError, match="cannot be reached"):
        run_over_ssh(Address("board.invalid"), tmp_path, "python3", 1, 1.0, quiet)


def test_a_server_that_does_not_speak_ssh(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_CONNECT_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(DeviceError, match=r"SSH refused|cannot be reached"):
            run_over_ssh(Address("127.0.0.1", "pi", listener.getsockname()[1]), tmp_path, "python3", 1, 1.0, quiet)
        thread.join()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(DeviceError, match=r"pip install 'autocompress\[ssh\]'"):
        run_over_ssh(Address("board"), tmp_path, "python3", 1, 1.0, quiet)
