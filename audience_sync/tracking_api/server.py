"""The Tracking API on its sockets: Uvicorn in a thread of its own, with the thread that commits behind it.

Uvicorn waits for ever for the head of a request, and for the rest of a body that was refused before it was read:
`PatientProtocol` limits the number of connections, and the time that a client takes to send.

Uvicorn's own lines are left out: anybody could fill the log with garbage requests. Its report of our own errors is
logged without the values in it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from typing import ClassVar, Final

import h11
import structlog
import uvicorn
from pydantic import SecretStr
from uvicorn.protocols.http.h11_impl import H11Protocol

from audience_sync.config import Address
from audience_sync.errors import AudienceSyncError
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.http import BUSY, Api, refusal_body
from audience_sync.tracking_api.intake import Intake
from audience_sync.tracking_api.requests import DEFAULT_LIMITS, RETRY_AFTER, Refusal, SenderLimits, invalid

GRACE: Final = 2.0  # seconds beyond the time of a body, in which the application itself answers that it is over
LINGER: Final = 1.0  # seconds in which a client may see why its connection ends

_NO_HTTP: Final = invalid("not a valid HTTP request")
_SLOW_HEAD: Final = Refusal(408, "the request did not arrive in time")


class PatientProtocol(H11Protocol):
    """A connection that is closed when its client is too slow, or one too many."""

    limits: ClassVar[SenderLimits] = DEFAULT_LIMITS

    _awaited: object = None  # what we wait for the client to send, as long as it is the same
    _timer: asyncio.TimerHandle | None = None
    _ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn has it
        """Begin to wait for a request, or turn the client away."""
        super().connection_made(transport)
        if len(self.connections) > 2 * self.limits.connections:
            transport.abort()  # not even an answer
        elif len(self.connections) > self.limits.connections:
            self._end(BUSY)
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        """Handle what comes, or drop it behind a last answer."""
        if not self._ended:
            super().data_received(data)

    def handle_events(self) -> None:
        """Handle what has come, and wait for what comes next."""
        try:
            super().handle_events()
        except h11.LocalProtocolError:  # the bytes after an answered request are not HTTP
            self.transport.close()
        self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - Uvicorn's words, for all that it cannot read
        """Answer something that is not an HTTP request, and close."""
        self._end(_NO_HTTP)

    def _watch(self) -> None:
        """Set the timer anew if the client owes us something else than before."""
        if self._ended:
            return
        state = self.conn.their_state
        first = self.cycle is None
        begun = state is h11.IDLE and (first or bool(self.conn.trailing_data[0]))
        awaited = (state, begun, self.cycle)
        if awaited == self._awaited:
            return
        self._stop_waiting()
        self._awaited = awaited
        if state is h11.IDLE:
            self._wait(self.limits.head if begun else self.limits.idle)
        elif state is h11.SEND_BODY:
            self._wait(self.limits.body + GRACE)

    def _wait(self, seconds: float) -> None:
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self._ended and self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._end(_SLOW_HEAD)
        else:
            self.transport.close()

    def _end(self, refusal: Refusal) -> None:
        """Answer without a request, and close once the client has had time to see it.

        Closing while something is unread would take the answer away from it.
        """
        self._ended = True
        self._stop_waiting()
        body = refusal_body(refusal)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        if refusal.status == 503:
            headers.append(("Retry-After", str(RETRY_AFTER)))
        for part in (h11.Response(status_code=refusal.status, headers=headers), h11.Data(body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part))
        self.transport.write_eof()
        self._wait(LINGER)


def limited(limits: SenderLimits) -> type[PatientProtocol]:
    """Return the connection with other limits than the default: Uvicorn makes connections of a class alone."""
    return type("LimitedProtocol", (PatientProtocol,), {"limits": limits})


BACKLOG = 512  # connections that the system keeps for us until we take them

log = structlog.get_logger()


class Server:
    """Serves from the moment it is made until `close`.

    Raises:
        AudienceSyncError: the address cannot be had.
    """

    def __init__(
        self,
        workspace: Workspace,
        address: Address,
        keys: Sequence[SecretStr],
        *,
        limits: SenderLimits = DEFAULT_LIMITS,
    ) -> None:
        sockets = _listen(address)
        self.address = address._replace(port=sockets[0].getsockname()[1])
        self._intake = Intake(workspace, wait=limits.wait)
        secrets = [key.get_secret_value().encode() for key in keys]
        self._api = Api(self._intake.submit, secrets, limits=limits, clock=workspace.clock)
        self._uvicorn = uvicorn.Server(_configuration(self._api, limits))
        self._thread = threading.Thread(target=self._uvicorn.run, args=(sockets,), name="ingest", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether it still serves; it does until it is stopped, unless something has crashed."""
        return self._thread.is_alive() and self._intake.is_alive()

    def stop(self) -> None:
        """Take no more connections; requests under way go on for a while."""
        self._uvicorn.should_exit = True

    def close(self, timeout: float) -> None:
        """End within `timeout` seconds: requests under way are committed and answered, or refused, or left alone."""
        ends_at = time.monotonic() + timeout
        self.stop()
        self._thread.join(timeout)
        self._uvicorn.force_exit = True
        self._intake.close(max(0.0, ends_at - time.monotonic()))
        self._api.close()


def _configuration(api: Api, limits: SenderLimits) -> uvicorn.Config:
    logger = logging.getLogger("uvicorn.error")
    logger.handlers, logger.propagate = [_Failures(logging.ERROR)], False
    logger.setLevel(logging.ERROR)
    return uvicorn.Config(
        api.application(),
        loop="asyncio",
        http=limited(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=round(limits.idle),
        timeout_graceful_shutdown=round(limits.drain),
    )


class _Failures(logging.Handler):
    """Logs exceptions in our own code: their kind and place, not their words, in which there may be values."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, asyncio.CancelledError):
            frames = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            log.error("ingest_failed", error=type(error).__name__, frames=frames)


def _listen(address: Address) -> list[socket.socket]:
    """Return sockets that listen on every address of a host, all on one port."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, place in dict.fromkeys((family, place) for family, _, _, _, place in found):
            port = sockets[0].getsockname()[1] if sockets else address.port
            # Named as TCP: else asyncio does not send at once, and each answer takes 40 ms.
            opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((place[0], port, *place[2:]))
            opened.listen(BACKLOG)
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise AudienceSyncError(
            f"cannot listen for events on {address}: {error.strerror or error}",
            hint="set ingest.listen to another address or a port above 1023, or stop the program using this address",
        ) from error
    return sockets
