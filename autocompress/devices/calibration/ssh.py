"""Runs a bundle on a device over SSH: copy, run, fetch, and leave nothing behind.

Keys, the agent, `~/.ssh/config` and `~/.ssh/known_hosts` are used as `ssh` does; a host whose key is not known is
refused. Nothing asks for a password.
"""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.devices.calibration.bundle import RUNNER
from autocompress.errors import DeviceError, MeasurementError

if TYPE_CHECKING:
    import paramiko

Say = Callable[[str], None]

_CONNECT_S = 15.0
_KEEP_ALIVE_S = 20
_NOT_FOUND = 127
_RESULT = "result.json"
_CHECK = "import sys, numpy, onnxruntime; print(sys.version.split()[0], onnxruntime.__version__)"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect: "user@host:port", user and port as in ~/.ssh/config or the usual ones if left out."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises DeviceError if this is no address."""
        found = re.fullmatch(r"(?:([^@\s:]+)@)?(\[[0-9A-Fa-f:.]+\]|[^@\s:\[\]-][^@\s:\[\]]*)(?::(\d{1,5}))?", text)
        if found is None or (found[3] and not 0 < int(found[3]) < 2**16):
            raise DeviceError(f"--ssh must be [user@]host[:port], got {text!r}.")
        return cls(found[2].strip("[]"), found[1], int(found[3]) if found[3] else None)

    def __str__(self) -> str:
        return (f"{self.user}@" if self.user else "") + self.host + (f":{self.port}" if self.port else "")


def run_over_ssh(address: Address, bundle: Path, python: str, threads: int, seconds: float, say: Say) -> bytes:
    """Run the bundle on the device; returns the content of its result.

    Args:
        address: the device.
        bundle: folder made by `write_bundle`.
        python: interpreter on the device, with numpy and onnxruntime.
        threads: threads of one inference.
        seconds: time to spend measuring.
        say: called with every line of progress.

    Raises:
        DeviceError: paramiko is missing, the host cannot be reached, its key or ours is not accepted, or the
            interpreter there cannot be used.
        MeasurementError: the run failed on the device or the connection broke.
    """
    with _connection(address) as client:
        versions = _output(client, f"{shlex.quote(python)} -c {shlex.quote(_CHECK)}", address, python)
        say(f"{address}: Python and onnxruntime {versions}")
        folder = _output(client, "mktemp -d /tmp/autocompress.XXXXXXXX", address, python)
        try:
            size = sum(file.stat().st_size for file in bundle.iterdir())
            say(f"{address}: copying {size / 1e6:.1f} MB to {folder}")
            _copy(client, bundle, folder, address)
            options = f"--threads {threads} --seconds {seconds:g} --out {_RESULT}"
            command = f"cd {folder} && echo $$ && exec {shlex.quote(python)} -u {RUNNER} {options}"
            _run(client, command, address, say)
            with client.open_sftp() as sftp, sftp.open(f"{folder}/{_RESULT}", "rb") as result:
                return bytes(result.read())
        finally:
            _finish(client, f"rm -rf {folder}")


@contextmanager
def _connection(address: Address) -> Iterator[paramiko.SSHClient]:
    """Connect; whatever goes wrong until the end becomes one clear sentence."""
    try:
        import paramiko
    except ImportError:
        raise DeviceError(
            "--ssh needs the package paramiko: install autocompress with its extra 'ssh' (pip install "
            "'autocompress[ssh]'), or use 'autocompress devices bundle' and copy the folder yourself."
        ) from None
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        _connect(client, address)
        yield client
    except (paramiko.SSHException, EOFError, ConnectionError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise MeasurementError(f"{address}: the connection broke: {reason}; run it again.") from None
    finally:
        client.close()


def _connect(client: paramiko.SSHClient, address: Address) -> None:
    """Connect as `ssh` would, by the user's configuration and keys.

    Raises:
        DeviceError: in the user's words, why not.
    """
    import paramiko

    config = paramiko.SSHConfig()
    path = Path("~/.ssh/config").expanduser()
    if path.is_file():
        config = paramiko.SSHConfig.from_path(str(path))
    known = config.lookup(address.host)
    host, port = known["hostname"], address.port or int(known.get("port", 22))
    proxy = paramiko.ProxyCommand(known["proxycommand"]) if "proxycommand" in known else None
    keys = [str(Path(file).expanduser()) for file in known.get("identityfile", ())]
    try:
        client.connect(
            host,
            port,
            address.user or known.get("user") or getpass.getuser(),
            key_filename=keys or None,  # type: ignore[arg-type]  # a list is allowed
            timeout=_CONNECT_S,
            banner_timeout=_CONNECT_S,
            auth_timeout=_CONNECT_S,
            sock=proxy,
        )
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(_KEEP_ALIVE_S)
    except paramiko.BadHostKeyException:
        reason = "the host shows another key than ~/.ssh/known_hosts has; find out why before you connect"
    except paramiko.PasswordRequiredException:
        reason = "the key needs a passphrase; load it with 'ssh-add' and try again"
    except paramiko.AuthenticationException:
        reason = (
            f"the host accepts none of your keys; 'ssh-copy-id {address}' installs one, passwords are not asked for"
        )
    except paramiko.SSHException as error:
        reason = f"SSH refused: {_refusal(error)}"
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = f"cannot be reached on port {port}: {why}"
    else:
        return
    raise DeviceError(f"{address}: {reason}.")


def _refusal(error: paramiko.SSHException) -> str:
    """Why a connection failed that got as far as SSH; paramiko tells some cases apart by their text only."""
    text = " ".join(str(error).split())
    if "known_hosts" in text:
        return "its key is not in ~/.ssh/known_hosts; connect once with ssh and accept it"
    if "no authentication methods" in text.lower():
        return "there is no key to show, neither in ~/.ssh nor in an agent; 'ssh-keygen' makes one"
    return text


def _output(client: paramiko.SSHClient, command: str, address: Address, python: str) -> str:
    """Return what a short command prints; a failure is about the interpreter."""
    _, out, err = client.exec_command(command, timeout=60)
    text: str = out.read().decode(errors="replace").strip()
    problem: str = err.read().decode(errors="replace")
    code = out.channel.recv_exit_status()
    if code == 0:
        return text
    last = (problem.strip().splitlines() or ["no reason given"])[-1]
    if code == _NOT_FOUND:
        raise DeviceError(f"{address}: there is no {python!r} there; name the interpreter with --python.")
    if "No module named" in last:
        module = last.rpartition(" ")[2].strip("'\"")
        raise DeviceError(
            f"{address}: {python!r} there has no {module}; run there: {python} -m pip install numpy onnxruntime, or "
            "name another interpreter with --python."
        )
    raise DeviceError(f"{address}: {command.split()[0]!r} failed there: {last}.")


def _copy(client: paramiko.SSHClient, bundle: Path, folder: str, address: Address) -> None:
    try:
        with client.open_sftp() as sftp:
            for file in sorted(bundle.iterdir()):
                sftp.put(str(file), f"{folder}/{file.name}")
    except OSError as error:
        reason = error.strerror or str(error)
        raise MeasurementError(f"{address}: the bundle cannot be copied to {folder} there: {reason}.") from None


def _run(client: paramiko.SSHClient, command: str, address: Address, say: Say) -> None:
    """Run the bundle, passing its lines on; stops it on the device if this side is interrupted."""
    _, out, err = client.exec_command(command)
    pid = out.readline().strip()
    line = ""
    try:
        for line in err:
            say(line.strip())
    except BaseException:
        if pid.isdigit():
            _finish(client, f"kill {pid}; for i in 1 2 3 4 5 6 7 8 9; do kill -0 {pid} || break; sleep 0.3; done")
        raise
    code = out.channel.recv_exit_status()
    if code != 0:
        raise MeasurementError(f"{address}: the run ended with code {code} there: {line.strip() or 'no reason given'}.")


def _finish(client: paramiko.SSHClient, command: str) -> None:
    """Run a command that cleans up; a connection that is gone cannot be cleaned through."""
    import paramiko

    with suppress(paramiko.SSHException, EOFError, OSError):
        client.exec_command(command, timeout=10)[1].channel.recv_exit_status()
