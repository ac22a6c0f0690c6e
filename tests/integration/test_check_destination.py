"""`check` and a `capture_url` that is not Schematic: found where an answer tells, and said where it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from audience_sync.checks import check_destination
from audience_sync.checks.finding import Finding
from audience_sync.clock import wall_clock
from audience_sync.config import load
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from tests.support.faulty_sandbox import FaultySandbox

HINT = "set schematic.capture_url to https://c.schematichq.com, or to your proxy for it"
UNCHECKED = (
    "not checked: whether this URL is Schematic and whether the key can send events; the first delivery will show"
)
JSON, HTML = "application/json", "text/html; charset=utf-8"


@contextmanager
def host(status: int, text: str, headers: Mapping[str, str]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Serve one answer to everything; yield the address and what was asked."""
    asked: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((f"{self.command} {self.path}", body))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[FaultySandbox]:
    """Schematic's API, which accepts the key."""
    with FaultySandbox(tmp_path / "sandbox.db") as serving:
        yield serving


def look(tmp_path: Path, *, capture: str, api: str, key: str | None = DEVELOPMENT_KEY) -> dict[str, Finding]:
    """Return what `check` finds about the two addresses."""
    path = tmp_path / "config.toml"
    path.write_text(f'[schematic]\ncapture_url = "{capture}"\napi_url = "{api}"\ntimeout = "5s"\n')
    environ = {} if key is None else {"SCHEMATIC_API_KEY": key}
    found = check_destination.look(load(path, {}), environ, database=None, now=wall_clock)
    return {one.subject if one.subject != capture else "capture": one for one in found}


@pytest.mark.parametrize(
    ("status", "text", "headers", "said"),
    [
        (200, "<html>Sign in</html>", {"Content-Type": HTML}, "HTTP 200: an HTML page"),
        (404, '{"error":"not found"}', {"Content-Type": JSON}, "HTTP 404: not found"),
        (405, "", {}, "HTTP 405"),
        (501, "", {}, "HTTP 501"),
        (308, "", {"Location": "https://elsewhere.example/batch"}, "HTTP 308 to https://elsewhere.example/batch"),
        (400, "<h1>Bad Request</h1>", {"Content-Type": HTML}, "HTTP 400: an HTML page"),
    ],
)
def test_a_host_that_is_not_schematic_is_an_error(
    tmp_path: Path, sandbox: FaultySandbox, status: int, text: str, headers: dict[str, str], said: str
) -> None:
    """The API knows the key, and events go elsewhere: what would stop a delivery, or lose it, is found before."""
    with host(status, text, headers) as (url, asked):
        found = look(tmp_path, capture=url, api=sandbox.url)

    capture = found["capture"]
    sentence = f"is not Schematic's event capture API: POST /batch returned {said}"
    assert (capture.state, capture.message, capture.remedy, capture.exit_code) == ("error", sentence, HINT, 1)
    assert asked == [("POST /batch", b'{"events":[]}')]
    assert found[sandbox.url].state == "ok"


def test_another_json_service_is_a_warning(tmp_path: Path, sandbox: FaultySandbox) -> None:
    """A refusal that does not look like one of Schematic's is probably of somebody else."""
    with host(422, '{"message":"unknown tenant"}', {"Content-Type": JSON}) as (url, _):
        capture = look(tmp_path, capture=url, api=sandbox.url)["capture"]

    assert (capture.state, capture.remedy) == ("warning", HINT)
    assert capture.message == (
        "might not be Schematic's event capture API: POST /batch returned"
        ' HTTP 422: {"message":"unknown tenant"}, not a JSON object with the field `error`'
    )


@pytest.mark.parametrize(
    ("status", "text"), [(200, '{"accepted":0}'), (204, ""), (202, "ok"), (400, '{"error":"no events"}')]
)
def test_what_cannot_be_checked_is_said(tmp_path: Path, sandbox: FaultySandbox, status: int, text: str) -> None:
    """Whatever answers so may be Schematic: `check` says what it has not seen."""
    with host(status, text, {"Content-Type": JSON}) as (url, _):
        capture = look(tmp_path, capture=url, api=sandbox.url)["capture"]

    assert (capture.state, capture.message) == ("ok", f"reachable, and responds to POST /batch; {UNCHECKED}")


@pytest.mark.parametrize("status", [429, 503])
def test_a_host_that_is_busy_is_a_warning(tmp_path: Path, sandbox: FaultySandbox, status: int) -> None:
    """It may be well later; it says nothing about what it is."""
    with host(status, '{"error":"slow down"}', {"Content-Type": JSON}) as (url, _):
        capture = look(tmp_path, capture=url, api=sandbox.url)["capture"]

    assert (capture.state, capture.remedy) == ("warning", "check again later")
    assert capture.message == f"could not be checked: POST /batch returned HTTP {status}: slow down"


def test_a_key_that_capture_refuses_is_a_warning(tmp_path: Path, sandbox: FaultySandbox) -> None:
    """A key that may read and not send is named before the first delivery; without a key nothing is concluded."""
    with host(403, '{"error":"forbidden"}', {"Content-Type": JSON}) as (url, _):
        capture = look(tmp_path, capture=url, api=sandbox.url)["capture"]
        without = look(tmp_path, capture=url, api=sandbox.url, key=None)["capture"]

    assert (capture.state, capture.remedy) == ("warning", "use a secret key that may send events")
    assert capture.message == "rejects an empty batch with this API key: POST /batch returned HTTP 403: forbidden"
    assert without.state == "ok"


def test_the_empty_batch_is_not_an_event(tmp_path: Path, sandbox: FaultySandbox) -> None:
    """Schematic has nothing afterwards that it had not before."""
    found = look(tmp_path, capture=sandbox.url, api=sandbox.url)

    assert {one.state for one in found.values()} == {"ok"}
    assert sandbox.ledger.read("SELECT count(*) FROM events") == [(0,)]
