"""Uvicorn's HTTP/1.1 connection with a limit on what Uvicorn lets a client take: connections, and time to send.

Uvicorn waits for ever for the head of a request, and for the rest of a body that was refused before it was read.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from audience_sync.tracking_api.api import BUSY, refusal_body
from audience_sync.tracking_api.limits import DEFAULT, RETRY_AFTER, Limits
from audience_sync.tracking_api.refusals import Refusal, invalid

GRACE: Final = 2.0  # seconds beyond the time of a body, in which the application itself answers that it is over
LINGER: Final = 1.0  # seconds in which a client may see why its connection ends

_NO_HTTP: Final = invalid("this is no HTTP request")
_SLOW_HEAD: Final = Refusal(408, "the request did not arrive in time")


class PatientProtocol(H11Protocol):
    """A connection that is closed when its client is too slow, or one too many."""

    limits: ClassVar[Limits] = DEFAULT

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
        except h11.LocalProtocolError:  # what comes behind a request that is answered is no HTTP
            self.transport.close()
        self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - Uvicorn's words, for all that it cannot read
        """Answer what is no HTTP request, and close."""
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


def limited(limits: Limits) -> type[PatientProtocol]:
    """Return the connection with other limits than the default: Uvicorn makes connections of a class alone."""
    return type("LimitedProtocol", (PatientProtocol,), {"limits": limits})
