from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.synthetic import candidate, make_study, settings

from autocompress.errors import InputError
from autocompress.report.web.watch import Watch
from autocompress.studies.folder import write_evaluation

ASSETS = ("/", "/watch.js", "/figures.js", "/report.css", "/plotly.js")


def get(watch: Watch, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    at = urlsplit(watch.url)
    connection = HTTPConnection(at.hostname or "", at.port or 0, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study", 20, final=False).path


@pytest.fixture
def watch(folder: Path) -> Iterator[Watch]:
    with Watch(folder, port=0) as made:
        yield made


def test_the_state_grows_with_the_study(watch: Watch, folder: Path) -> None:
    response, body = get(watch, "/state.json")
    state = json.loads(body)
    assert response.status == 200 and state["study"] and not state["final"]
    assert [row["recipe"] for row in state["rows"][:3]] == ["fp32", "fp16", "int8"]
    assert all(f"--trial {row['trial']}" in row["export"] and "stages" in row["yaml"] for row in state["rows"])
    assert state["counts"]["rejected"] == sum(count for kind, _, count, _ in state["reasons"] if kind == "rejected")
    assert {"front", "volume"} == set(state["figures"]) and "fp32's latency" in state["reference"]
    assert state["recent"][-1]["trial"] == 22 and "front" in state["sentences"][1]

    tag = response.headers["ETag"]
    again, empty = get(watch, "/state.json", **{"If-None-Match": tag})
    assert (again.status, empty) == (304, b"")
    write_evaluation(folder, candidate(60, 1))
    changed, body = get(watch, "/state.json", **{"If-None-Match": tag})
    assert changed.status == 200 and changed.headers["ETag"] != tag
    assert json.loads(body)["recent"][-1]["trial"] == 60


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_it_is_served_at_an_address_of_ipv6(folder: Path) -> None:
    with Watch(folder, "::1", port=0) as watch:
        assert watch.url.startswith("http://[::1]:")
        assert get(watch, "/state.json")[0].status == 200


def test_a_folder_without_a_study_waits(tmp_path: Path) -> None:
    with Watch(tmp_path / "nothing yet", port=0) as watch:
        assert json.loads(get(watch, "/state.json")[1])["study"] is False
        assert json.loads(get(watch, "/progress.json")[1])["state"] == "waiting"
        assert not (tmp_path / "nothing yet").exists()
        (tmp_path / "nothing yet").mkdir()
        (tmp_path / "nothing yet/study.json").write_text(settings().model_dump_json())
        assert json.loads(get(watch, "/state.json")[1])["rows"] == []


def test_a_half_written_state_is_served_all_the_same(watch: Watch, folder: Path) -> None:
    (folder / "trials/000003/evaluation.json").write_text("{")
    (folder / "progress.json").write_text("{")
    state = json.loads(get(watch, "/state.json")[1])
    assert state["counts"]["unreadable"] == 1 and state["rows"]
    assert json.loads(get(watch, "/progress.json")[1])["state"] == "unknown"


def test_a_metric_without_numbers_is_still_json(watch: Watch, folder: Path) -> None:
    write_evaluation(folder, candidate(60, 1).model_copy(update={"seconds": {"training": 1e308}}))
    assert b"NaN" not in get(watch, "/state.json")[1] and b"Infinity" not in get(watch, "/state.json")[1]


def test_everything_the_page_needs_comes_from_here(watch: Watch) -> None:
    for path in ASSETS:
        response, body = get(watch, path)
        assert response.status == 200 and len(body) > 500
        assert get(watch, path, **{"If-None-Match": response.headers["ETag"]})[0].status == 304
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    page = get(watch, "/")[1].decode()
    assert "http:" not in page and "https:" not in page and "//" not in page.replace("</", "")
    scripts = "".join(get(watch, path)[1].decode() for path in ("/watch.js", "/figures.js"))
    assert "innerHTML" not in scripts and "document.write" not in scripts


def test_only_reading_and_only_known_paths(watch: Watch) -> None:
    for path in ("/study.json", "/../study.json", "/trials/000000/evaluation.json", "/lock"):
        assert get(watch, path)[0].status == 404
    assert get(watch, "/state.json", "POST")[0].status == 501
    head, body = get(watch, "/state.json", "HEAD")
    assert head.status == 200 and int(head.headers["Content-Length"]) > 100 and body == b""


def test_other_sites_cannot_read_it(watch: Watch) -> None:
    assert get(watch, "/state.json", Host="evil.example:8642")[0].status == 403
    assert get(watch, "/state.json", Host="localhost:8642")[0].status == 200
    assert "Access-Control-Allow-Origin" not in get(watch, "/state.json")[0].headers
    assert urlsplit(watch.url).hostname == "127.0.0.1"


def test_no_name_of_another_site_is_answered_on_the_network_either(folder: Path) -> None:
    with Watch(folder, "0.0.0.0", port=0) as watch:
        for host in ("evil.example:8642", "", "127.0.0.1.evil.example", "localhost.evil.example"):
            assert get(watch, "/state.json", Host=host)[0].status == 403
        for host in ("127.0.0.1:8642", "localhost", socket.gethostname(), "192.0.2.7:8642", "[::1]:1"):
            assert get(watch, "/state.json", Host=host)[0].status == 200
        assert "everybody who can reach this address, unencrypted" in watch.audience


@pytest.mark.parametrize("host", ["[", "[::1", "[x]y", "\xff", "a" * 5000])
def test_a_malformed_host_is_an_answer_and_no_traceback(
    watch: Watch, capfd: pytest.CaptureFixture[str], host: str
) -> None:
    assert get(watch, "/state.json", Host=host)[0].status in (400, 403)
    assert "Traceback" not in capfd.readouterr().err


def test_a_tab_that_is_closed_says_nothing(watch: Watch, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", urlsplit(watch.url).port or 0)) as tab:
            tab.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset at once
            tab.sendall(b"GET /plotly.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert get(watch, "/state.json")[0].status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_with_a_token_only_those_who_have_it_are_answered(folder: Path) -> None:
    with Watch(folder, port=0, token="s3 cret&") as watch:
        assert get(watch, "/state.json")[0].status == 403
        assert get(watch, "/state.json?token=wrong")[0].status == 403
        first, _ = get(watch, "/?" + urlsplit(watch.url).query)
        cookie = first.headers["Set-Cookie"]
        assert first.status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert get(watch, "/state.json", Cookie=cookie.partition(";")[0])[0].status == 200
        assert get(watch, "/state.json", Cookie="autocompress_token=wrong")[0].status == 403


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot be served at 127.0.0.1, port {port}: .*give another --port"):
            Watch(folder, port=port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autocompress.report.web.watch.PORT", port)
            with Watch(folder) as watch:
                assert urlsplit(watch.url).port != port
    with pytest.raises(InputError, match="from 0 to 65535, got 99999"):
        Watch(folder, port=99999)
    with pytest.raises(InputError, match=r"cannot be served at 203\.0\.113\.1"):
        Watch(folder, "203.0.113.1", 0)
