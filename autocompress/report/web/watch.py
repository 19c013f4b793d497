"""A study as a local web page that refreshes while the search runs.

The page reads the study folder only: it locks and writes nothing, so it can be opened and closed at any time, on
running, interrupted and finished studies. It is served to this machine unless another address is asked for.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import secrets
import shlex
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from plotly.offline import get_plotlyjs

from autocompress.errors import InputError
from autocompress.report.figures.plots import front_figure
from autocompress.report.figures.volumes import volumes_figure
from autocompress.report.formatting import description, is_percentage, reasons
from autocompress.report.hypervolume import hypervolume_reference
from autocompress.report.study_reader import Follower
from autocompress.report.text.table import front_rows, headline
from autocompress.report.web._payload import finite
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study

HOST, PORT = "127.0.0.1", 8642
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_COOKIE = "autocompress_token"
_RECENT = 12
"""Number of the last trials that are listed."""
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; font-src data:"
)


class Watch:
    """The server of one study folder.

    Args:
        folder: of the study; it may still be empty.
        host: address to serve at; anything but a loopback address shows the study to the network.
        port: None takes 8642, or any free one where that is taken; 0 takes any free one.
        token: only who has opened the page with it (`url` holds it) is answered; None for everybody who can reach it.

    Raises:
        InputError: the port is taken, or the address is not one of this machine.
    """

    def __init__(self, folder: Path, host: str = HOST, port: int | None = None, token: str | None = None) -> None:
        self._pages = _Pages(folder)
        pages = self._pages
        local = {*_LOOPBACK, host}
        allowed = local if host in _LOOPBACK else {*local, socket.gethostname().lower(), socket.getfqdn().lower()}

        class Handler(_Handler):
            def __init__(self, *arguments: Any) -> None:
                self.pages, self.hosts, self.token = pages, allowed, token
                self.is_local = host in _LOOPBACK
                super().__init__(*arguments)

        self._server = _listen(host, port, Handler)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_address[1]}/" + (f"?token={quote(token)}" if token else "")
        self.audience = _audience(host, token)
        self._thread = threading.Thread(target=self.serve_forever, name="watch", daemon=True)

    def serve_forever(self) -> None:
        """Answer until `close` is called or the process is interrupted."""
        self._server.serve_forever(poll_interval=0.5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self.close()

    def close(self) -> None:
        """Free the port."""
        self._server.server_close()


def _audience(host: str, token: str | None) -> str:
    """What is shown, and to whom, in one sentence."""
    if host in _LOOPBACK:
        who = "programs and users of this machine"
    else:
        who = "everybody who can reach this address, unencrypted"
    who += ", if they have the token" if token else ""
    return f"recipes, figures, file names and notes of this study are shown to {who}; no file is handed out"


def _listen(host: str, port: int | None, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of a tab that was closed; the terminal belongs to the search."""

    try:
        return Server((host, PORT if port is None else port), handler)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return _listen(host, 0, handler)
        raise InputError(
            f"the page cannot be served at {host}, port {PORT if port is None else port}: {error.strerror}; "
            "give another --port (0 takes any free one)"
        ) from None
    except OverflowError:
        raise InputError(f"--port must be from 0 to 65535, got {port}") from None


class _Pages:
    """What the server answers, made when it has changed."""

    def __init__(self, folder: Path) -> None:
        self.follower = Follower(folder)
        self._run = secrets.token_hex(4)  # the tags of an earlier server on this port are not ours
        self._lock = threading.Lock()
        self._made: tuple[int, bytes] = (-1, b"")

    def state(self) -> tuple[bytes, str]:
        """/state.json and its tag."""
        with self._lock:
            self.follower.refresh()
            version = self.follower.version
            if self._made[0] != version:
                self._made = (version, _json(state(self.follower)))
            return self._made[1], f'"{self._run}-{version}"'

    def progress(self) -> tuple[bytes, str]:
        """/progress.json and its tag."""
        self.follower.refresh()
        body = _json(self.follower.progress())
        return body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the few paths there are; no file of the study is handed out."""

    server_version = "autocompress"
    sys_version = ""
    timeout = 30
    pages: _Pages
    hosts: set[str]
    """Names under which a browser may ask, so that no page of another site reads this one through a name of its own."""
    is_local: bool
    token: str | None

    def do_GET(self) -> None:
        """Answer."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        except ValueError:  # such as "Host: ["
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if host not in self.hosts and (self.is_local or not _is_address(host)):
            self.send_error(HTTPStatus.FORBIDDEN, "not served under this name")
            return
        given = query.get("token", [""])[0]
        if self.token and not any(_same(t, self.token) for t in (given, self._cookie())):
            self.send_error(HTTPStatus.FORBIDDEN, "open the address with its token")
            return
        self._newcomer = bool(self.token and given)
        routes: dict[str, tuple[str, Callable[[], tuple[bytes, str]]]] = {
            "/": ("text/html", lambda: _file("watch.html")),
            "/watch.js": ("text/javascript", lambda: _file("watch.js")),
            "/figures.js": ("text/javascript", lambda: _file("figures.js")),
            "/report.css": ("text/css", lambda: _file("report.css")),
            "/plotly.js": ("text/javascript", _plotly),
            "/state.json": ("application/json", self.pages.state),
            "/progress.json": ("application/json", self.pages.progress),
        }
        if path not in routes:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, make = routes[path]
        body, tag = make()
        if self.headers.get("If-None-Match") == tag:
            self._head(HTTPStatus.NOT_MODIFIED, kind, tag, 0)
            return
        self._head(HTTPStatus.OK, kind, tag, len(body))
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _head(self, status: HTTPStatus, kind: str, tag: str, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        if status is HTTPStatus.OK:
            self.send_header("Content-Length", str(length))
        if self._newcomer:
            self.send_header("Set-Cookie", f"{_COOKIE}={quote(self.token or '')}; HttpOnly; SameSite=Strict; Path=/")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("ETag", tag)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def _cookie(self) -> str:
        """The token that the browser was given, if it has one."""
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(_COOKIE)
        except CookieError:
            return ""
        return unquote(found.value) if found else ""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the search."""


def _is_address(host: str) -> bool:
    """Whether it is a number and no name: only names can be made to point somewhere else."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def state(follower: Follower) -> dict[str, Any]:
    """Everything about the study that the page shows, as plain data."""
    study = follower.study
    if study is None:
        return {"folder": str(follower.folder), "study": False}
    settings, percent = study.settings, is_percentage(study)
    by_trial = {e.trial: e for e in study.evaluations}
    repeats = sum(e.is_repeat for e in study.candidates)
    counts = {s: sum(e.state == s and not e.is_repeat for e in study.candidates) for s in _STATES}
    device = settings.device
    figures = {"front": _figure(front_figure(study))}
    if follower.volumes is not None:
        figures["volume"] = _figure(volumes_figure({"hypervolume": follower.volumes}, "evaluated"))
    return {
        "folder": str(follower.folder),
        "study": True,
        "task": settings.task_name,
        "metric": settings.metric,
        "percent": percent,
        "split": study.split,
        "device": {key: device.get(key) for key in ("name", "processor", "runtime", "threads", "int8_arithmetic")},
        "sampler": settings.sampler,
        "seed": settings.seed,
        "constraints": list(map(str, settings.constraints)),
        "final": study.final,
        "counts": {**counts, "repeated": repeats, "unreadable": follower.unreadable},
        "sentences": headline(study),
        "rows": [{**asdict(row), **_handover(study, by_trial[row.trial])} for row in front_rows(study)],
        "recent": [_recent(e) for e in sorted(study.evaluations, key=lambda e: (e.finished_at, e.trial))[-_RECENT:]],
        "reasons": [list(item) for item in reasons(study)],
        "reference": hypervolume_reference(study)[1],
        "figures": figures,
    }


_STATES = ("complete", "rejected", "failed")


def _handover(study: Study, e: Evaluation) -> dict[str, Any]:
    """What can be done with a point: its recipe and how to export it."""
    return {
        "yaml": e.recipe.to_yaml(),
        "artifact": e.artifact or "",
        "export": f"autocompress export {shlex.quote(str(study.path))} --trial {e.trial}",
    }


def _recent(e: Evaluation) -> dict[str, Any]:
    return {
        "trial": e.trial,
        "state": "baseline" if e.kind == "baseline" else "repeated" if e.is_repeat else e.state,
        "recipe": description(e),
        "reason": e.reason,
        "accuracy": e.validation.value if e.validation else None,
        "latency_ms": e.latency_ms,
        "size_bytes": e.size_bytes,
        "finished_at": e.finished_at,
    }


def _figure(figure: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(figure.to_json())
    return made


def _json(value: Any) -> bytes:
    return json.dumps(finite(value), separators=(",", ":"), allow_nan=False).encode()


def _file(name: str) -> tuple[bytes, str]:
    body = (Path(__file__).parent / name).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'


@cache
def _plotly() -> tuple[bytes, str]:
    body: bytes = get_plotlyjs().encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'
