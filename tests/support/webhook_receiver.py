"""A real receiver of webhooks on this machine, which verifies signatures and can fail in every way."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "correct horse battery staple"
MOST_MESSAGES = 100


@dataclass(frozen=True)
class Fault:
    """An answer of the receiver other than accepting a batch."""

    status: int = 500
    body: str = '{"error":"no"}'
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False  # until the fault is over; no answer
    drops: bool = False  # the batch is taken, and the connection closed without an answer


@dataclass(frozen=True)
class Received:
    """A request, whose signature may be wrong."""

    headers: Mapping[str, str]
    body: bytes
    is_taken: bool

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return its messages."""
        found: list[dict[str, Any]] = json.loads(self.body)["messages"]
        return found


class WebhookReceiver:
    """A receiver that keeps every request, and answers as a test wants."""

    def __init__(self, secrets: Sequence[str] = (SECRET,)) -> None:
        self.secrets = secrets
        self.delay = 0.0  # seconds before each answer
        self.requests: list[Received] = []
        self.url = ""
        self._fault: Fault | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()

    def fail(self, fault: Fault) -> None:
        """Answer like this from now on."""
        self._end_fault(fault)

    def recover(self) -> None:
        """Accept from now on; who hangs gets no answer any more."""
        self._end_fault(None)

    @property
    def taken(self) -> list[dict[str, Any]]:
        """Return the messages of accepted requests in the order of their arrival, repetitions included."""
        with self._lock:
            requests = list(self.requests)
        return [message for request in requests if request.is_taken for message in request.messages]

    @property
    def once(self) -> list[dict[str, Any]]:
        """Return the messages without repetitions."""
        return list({message["id"]: message for message in self.taken}.values())

    def processed(self) -> Counter[str]:
        """Return how often each message was processed, by its id."""
        return Counter(message["id"] for message in self.once)

    def _end_fault(self, fault: Fault | None) -> None:
        self._fault, before, self._over = fault, self._over, threading.Event()
        before.set()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        fault, over = self._fault, self._over
        if fault is not None and fault.hangs:
            self._note(headers, body, is_taken=False)
            over.wait(60)
            handler.close_connection = True
            return
        time.sleep(self.delay)
        status, text, more = 204, "", {}
        if not self._is_signed(headers, body):
            status, text = 401, '{"error":"wrong signature"}'
        elif handler.path.startswith("/hook/elsewhere"):
            status, text = 404, "<!DOCTYPE html>"
        elif fault is not None and not fault.drops:
            status, text, more = fault.status, fault.body, dict(fault.headers)
        elif len(json.loads(body)["messages"]) > MOST_MESSAGES:
            status, text = 413, '{"error":"too many"}'
        self._note(headers, body, is_taken=status == 204)
        if fault is not None and fault.drops:
            handler.close_connection = True
            return
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(text.encode())), **more}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    def _note(self, headers: Mapping[str, str], body: bytes, *, is_taken: bool) -> None:
        with self._lock:
            self.requests.append(Received(headers, body, is_taken))

    def _is_signed(self, headers: Mapping[str, str], body: bytes) -> bool:
        signed = headers["audience-sync-timestamp"].encode() + b"." + body
        wanted = {hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in self.secrets}
        given = {one.removeprefix("v1=") for one in headers["audience-sync-signature"].split(",")}
        return not wanted.isdisjoint(given)


@contextmanager
def receiving(secrets: Sequence[str] = (SECRET,)) -> Iterator[WebhookReceiver]:
    """Yield a receiver that listens on this machine."""
    receiver = WebhookReceiver(secrets)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.handle(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.recover()
            server.shutdown()
            thread.join()
