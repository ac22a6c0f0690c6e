"""HTTP/1.1 over loopback: one thread per connection, kept alive, each answer written in one piece.

It knows requests, responses and connections; a function that it gets answers the requests.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from audience_sync.core import exact_json
from audience_sync.core.model import Json

MAX_BODY: Final = 64 * 1024 * 1024  # bytes of a request; a batch is a thousandth of it


@dataclass(frozen=True)
class Request:
    """A request; header names are lower case. Its repr shows neither headers nor body: they carry the API key."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    fault: str | None = None  # a failure that is simulated for it


@dataclass(frozen=True)
class SandboxResponse:
    """The response to a request."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None  # bytes of it that are sent, head included, before the connection ends


Answerer = Callable[[Request], SandboxResponse | None]
"""Answers a request, or returns None to drop the connection without an answer."""


def json_response(value: Json, status: int = 200) -> SandboxResponse:
    """Return `value` as a JSON answer."""
    return SandboxResponse(status, exact_json.dumps(value))


def error_response(status: int, message: str, **details: Json) -> SandboxResponse:
    """Return an answer in the shape of Schematic's errors."""
    return json_response({"error": message, **details}, status)


class LoopbackServer(ThreadingHTTPServer):
    """Listens from the start on; raises `OSError` when it cannot."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], answerer: Answerer) -> None:
        self.answerer = answerer
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Connection)

    def hang_up(self, timeout: float) -> None:
        """End every connection and wait up to `timeout` seconds until their threads are done."""
        with self._changed:
            for connection in self._open:
                _shut(connection)
            self._changed.wait_for(lambda: not self._open, timeout)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a new connection in a thread of its own."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection whose thread is done with it."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when the other side went away, which is what a crash test does all day."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    """One connection: reads requests until either side has enough."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackServer

    def do_GET(self) -> None:
        self._exchange()

    def do_POST(self) -> None:
        self._exchange()

    def do_DELETE(self) -> None:
        self._exchange()

    def _exchange(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self._refuse_body(error_response(411, "a Content-Length header is required"))
            return
        if int(length) > MAX_BODY:
            self._refuse_body(error_response(413, "the request is too large"))
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the client died half way through: nothing of it counts
            self.close_connection = True
            return
        path, _, query = self.path.partition("?")
        headers = {name.lower(): text for name, text in self.headers.items()}
        answered = self.server.answerer(Request(self.command, path, query, headers, body))
        if answered is None:
            self.close_connection = True
            return
        self._write(answered)

    def _refuse_body(self, answered: SandboxResponse) -> None:
        # The body stays unread, so nothing after it on this connection could be understood.
        self.close_connection = True
        self._write(answered)

    def _write(self, answered: SandboxResponse) -> None:
        phrase = HTTPStatus(answered.status).phrase if answered.status in _KNOWN else ""
        lines = [
            f"HTTP/1.1 {answered.status} {phrase}",
            f"Date: {self.date_time_string()}",
            f"Content-Type: {answered.content_type}",
            f"Content-Length: {len(answered.body)}",
            *(f"{name}: {text}" for name, text in answered.headers.items()),
        ]
        if answered.cut is not None:
            self.close_connection = True
        elif self.close_connection:
            lines.append("Connection: close")
        # One write: header and body in two would wait for a delayed acknowledgement, 40 ms each time.
        whole = "\r\n".join([*lines, "", ""]).encode("latin-1") + answered.body
        self.wfile.write(whole[: answered.cut])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the standard library
        """Keep quiet: the ledger has every request."""


_KNOWN: Final = frozenset(HTTPStatus)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it may be gone already
        connection.shutdown(socket.SHUT_RDWR)
