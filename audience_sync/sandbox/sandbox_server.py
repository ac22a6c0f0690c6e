"""A Schematic of your own: capture, the API that reads back, and faults on demand, over HTTP on this machine.

It keeps the promises that matter to a sender (idempotency within 24 hours, the batch limit, keys that are unique,
accepted is not applied) and remembers everything in one SQLite file. It is made for development and for tests, not
for the open network.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import orjson

from audience_sync.clock import Seams
from audience_sync.errors import ConfigError
from audience_sync.sandbox.capture import capture, count, user_keys
from audience_sync.sandbox.control_api import PREFIX, control
from audience_sync.sandbox.faults import CAPTURE_PATHS, FaultRule, Faults, Gate
from audience_sync.sandbox.http_server import Answer, Request, Server, refusal
from audience_sync.sandbox.ledger import Ledger
from audience_sync.sandbox.rest_api import api
from audience_sync.sandbox.sandbox_state import Keys, Settings, State

DEVELOPMENT_KEY: Final = "sch_dev_sandbox"
"""The API key accepted unless others are named. It opens nothing but sandboxes."""

_DEFAULTS: Final = Settings()
_REAL: Final = Seams()
_POLL = 0.02  # seconds until the listening thread notices that it should end
_GRACE = 0.5  # seconds for requests under way when the sandbox closes


class Sandbox:
    """A local Schematic that listens at `url` and keeps its ledger at `path`; port 0 takes any free port.

    Serves from `start` (or `with`) until `close`. Raises `ConfigError` when the port or the file cannot be had.
    """

    def __init__(
        self,
        path: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        api_keys: Sequence[str] = (DEVELOPMENT_KEY,),
        settings: Settings = _DEFAULTS,
        seams: Seams = _REAL,
    ) -> None:
        self.ledger = Ledger(path, environment_id=settings.environment_id, seams=seams)
        self.faults = Faults()
        self.gate = Gate()
        self.keys = Keys(api_keys)
        self._state = State(self.ledger, self.keys, settings, self.faults, self.gate)
        try:
            self._server = Server((host, port), self._answer)
        except OSError as error:
            self.ledger.close()
            raise ConfigError(
                f"the sandbox cannot listen on {host}:{port}: {error}", hint="Choose another port; 0 takes any."
            ) from error
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Return the base URL of both capture and API."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        """Serve in background threads from now on."""
        if self._thread is None:
            serve = self._server.serve_forever
            self._thread = threading.Thread(target=serve, args=(_POLL,), name="sandbox", daemon=True)
            self._thread.start()

    def serve_forever(self) -> None:
        """Serve until another thread calls `close` or a signal's exception arrives."""
        self.start()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop serving, drop what is held and close the ledger, all within a second; again does nothing."""
        self.gate.close()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up(_GRACE)
        self.ledger.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: Request) -> Answer | None:
        if request.path.startswith(PREFIX):
            return control(self._state, request)
        rule = self.faults.choose(request.path, lambda: user_keys(request.body))
        if rule is None:
            return self._route(request)
        return self._stumble(rule, replace(request, fault=rule.name))

    def _route(self, request: Request) -> Answer:
        if request.path not in CAPTURE_PATHS:
            return api(self._state, request)
        if request.method != "POST":
            return refusal(405, "method not allowed")
        return capture(self._state, request)

    def _stumble(self, rule: FaultRule, request: Request) -> Answer | None:
        self.gate.pause(rule.delay)
        if rule.hold_before:
            self.gate.wait()
        if self.gate.closed:
            return None
        if rule.refuse or (rule.status is not None and not rule.after):
            self.ledger.record(request.path, rule.status, events=count(request), fault=rule.name)
            return _scripted(rule)
        answered = self._route(request)
        if rule.hold:
            self.gate.wait()
        if rule.drop or self.gate.closed:
            return None
        return _scripted(rule) if rule.after else replace(answered, cut=rule.cut)


def _scripted(rule: FaultRule) -> Answer | None:
    if rule.status is None:
        return None
    if isinstance(rule.body, str):
        return Answer(rule.status, rule.body.encode(), rule.content_type or "text/html", rule.headers)
    phrase = HTTPStatus(rule.status).phrase if rule.status in frozenset(HTTPStatus) else "fault"
    body = orjson.dumps({"error": phrase.lower()} if rule.body is None else rule.body)
    return Answer(rule.status, body, rule.content_type or "application/json", rule.headers)
