"""A Schematic of your own: capture, the API that reads back, and failures on demand, over HTTP on this machine.

It keeps the promises that matter to a sender (idempotency within 24 hours, the batch limit, keys that are unique,
accepted is not applied) and remembers everything in one SQLite file. It is made for development and for tests, not
for the open network.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from audience_sync.clock import Clock
from audience_sync.errors import ConfigError
from audience_sync.sandbox.capture import CAPTURE_PATHS, AcceptedKeys, capture, count
from audience_sync.sandbox.http_server import LoopbackServer, Request, SandboxResponse, error_response, json_response
from audience_sync.sandbox.ledger import Ledger
from audience_sync.sandbox.rest_api import SandboxSettings, api

DEVELOPMENT_KEY: Final = "sch_dev_sandbox"
"""The API key accepted unless others are named. It opens nothing but sandboxes."""

OWN_PATHS: Final = "/sandbox/"
"""The beginning of the paths of the sandbox itself: they need no key and are not recorded."""

_REAL: Final = Clock()
_POLL = 0.02  # seconds until the listening thread notices that it should end
_GRACE = 0.5  # seconds for requests under way when the sandbox closes


@dataclass(frozen=True, kw_only=True)
class SimulatedFailures:
    """How requests that carry events go wrong: each waits, and a part of them fails, the same one each time."""

    rate: float = 0.0  # how probable it is that a request fails, 0 to 1
    status: int = 500
    delay: float = 0.0  # seconds


NO_FAILURES: Final = SimulatedFailures()
_DEFAULTS: Final = SandboxSettings()


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
        settings: SandboxSettings = _DEFAULTS,
        failures: SimulatedFailures = NO_FAILURES,
        clock: Clock = _REAL,
    ) -> None:
        self.ledger = Ledger(path, environment_id=settings.environment_id, clock=clock)
        self.keys = AcceptedKeys(api_keys)
        self._settings = settings
        self._failures = failures
        self._dice = random.Random(0)  # noqa: S311 - repeatable failures, not secrets
        self._closed = threading.Event()
        try:
            self._server = LoopbackServer((host, port), self.respond)
        except OSError as error:
            self.ledger.close()
            raise ConfigError(
                f"the sandbox cannot listen on {host}:{port}: {error}",
                hint="choose another port with --port; 0 picks a free one",
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
        """Stop serving, drop the requests under way and close the ledger, all within a second; again does nothing."""
        self._closed.set()
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

    def respond(self, request: Request) -> SandboxResponse | None:
        """Return the response to a request, or None to drop its connection."""
        if request.path.startswith(OWN_PATHS):
            return self._respond_for_itself(request)
        if request.path not in CAPTURE_PATHS:
            return self.route(request)
        failures = self._failures
        fails = self._dice.random() < failures.rate
        if failures.delay:
            request = replace(request, fault="delay")
            if self._closed.wait(failures.delay):
                return None
        if not fails:
            return self.route(request)
        self.ledger.record(request.path, failures.status, events=count(request), fault=f"status {failures.status}")
        phrase = HTTPStatus(failures.status).phrase if failures.status in frozenset(HTTPStatus) else "fault"
        return error_response(failures.status, phrase.lower())

    def route(self, request: Request) -> SandboxResponse:
        """Return the response to a request to Schematic, in which nothing goes wrong."""
        if request.path not in CAPTURE_PATHS:
            return api(request, self.ledger, keys=self.keys, settings=self._settings)
        if request.method != "POST":
            return error_response(405, "method not allowed")
        return capture(request, self.ledger, keys=self.keys, batch_limit=self._settings.batch_limit)

    def _respond_for_itself(self, request: Request) -> SandboxResponse:
        match request.method, request.path.removeprefix(OWN_PATHS):
            case "GET", "stats":
                return json_response(self.ledger.stats())
            case "POST", "reset":
                self.ledger.reset()
                return json_response({})
            case _:
                return error_response(404, f"the sandbox has no {request.method} {request.path}")
