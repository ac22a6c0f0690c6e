"""From HTTP to events and back to an answer: the one asynchronous place of the program.

Anyone may open a connection and send slowly. A thread for each would soon be all threads; here a slow sender costs a
little memory until its time is over. Nothing is decided here: a body is collected, `requests.read` says what it is, and
the answer waits for `Intake`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from uuid import uuid4

import orjson
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from audience_sync.clock import Clock
from audience_sync.segment.segment_events import Arrival, RefusedEvent
from audience_sync.tracking_api.intake import Taken
from audience_sync.tracking_api.requests import (
    ENDPOINTS,
    RETRY_AFTER,
    UNKNOWN,
    Endpoint,
    EventsRead,
    Refusal,
    SenderLimits,
    invalid,
    knows_sender,
    read,
)

EVERY: Final = 60.0  # seconds

log = structlog.get_logger()


class Complaints:
    """Counts refusals and logs them; for one thread.

    Anybody can send garbage, so each status and each fault of an event is logged at most once a minute, with how many
    there were.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._counts: Counter[int | str] = Counter()  # since the status or fault was logged last
        self._logged_at: dict[int | str, float] = {}

    def note(self, refusal: Refusal) -> None:
        """Count a refused request, and log it unless its status was logged within the last minute."""
        if requests := self._due(refusal.status):
            log.warning("requests_rejected", status=refusal.status, why=refusal.message, requests=requests)

    def note_event(self, event: RefusedEvent) -> None:
        """Count a refused event, and log it unless its fault was logged within the last minute."""
        if events := self._due(event.why.fault):
            why = f"an event {event.why.sentence}"
            log.warning("events_rejected", fault=event.why.fault.value, why=why, events=events)

    def _due(self, kind: int | str) -> int:
        """Count one more, and return how many there were since the last line of the log; 0: it is too soon for one."""
        self._counts[kind] += 1
        now = self._monotonic()
        if now - self._logged_at.get(kind, float("-inf")) < EVERY:
            return 0
        self._logged_at[kind] = now
        return self._counts.pop(kind)


_GZIP: Final = zlib.MAX_WBITS | 16
_GZIP_EXTRA: Final = 1024  # bytes by which gzip may make a body longer that cannot be packed
_PLAIN: Final = ("", "identity")
_PACKED: Final = ("gzip", "x-gzip")


class Body:
    """A body of at most `limit` bytes once it is unpacked; what is beyond is not kept, however small it was packed."""

    def __init__(self, limit: int, *, packed: bool) -> None:
        self._limit = limit
        self._longest = limit + _GZIP_EXTRA * packed  # as it is sent
        self._received = 0
        self._unpack = zlib.decompressobj(_GZIP) if packed else None
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def expect(self, length: int) -> Refusal | None:
        """Refuse a body that says of itself that it is longer than it may be."""
        return _too_long(self._limit) if length > self._longest else None

    def add(self, piece: bytes) -> Refusal | None:
        """Take the next piece as it was sent; refuse what is too long, or no gzip."""
        self._received += len(piece)
        if self._received > self._longest:
            return _too_long(self._limit)
        if self._unpack is None:
            self._data += piece
            return None
        try:
            # One byte more than may be is enough to know; what zlib would still make of the piece is never made.
            self._data += self._unpack.decompress(piece, self._limit + 1 - len(self._data))
        except zlib.error:
            return invalid("the body is not valid gzip")
        if self._unpack.unused_data:
            return invalid("the body has data after the end of the gzip stream")
        return _too_long(self._limit) if len(self._data) > self._limit else None

    def whole(self) -> bytes | Refusal:
        """Return the body, now that all has come; refuse a gzip that breaks off."""
        if self._unpack is not None and not self._unpack.eof:
            return invalid("the gzip body is truncated")
        return bytes(self._data)


def open_body(encoding: str | None, *, limit: int) -> Body | Refusal:
    """Return a body to be filled, with a Content-Encoding and a maximum size; refuse an encoding other than gzip."""
    word = (encoding or "").strip().lower()
    if word not in _PLAIN + _PACKED:
        return Refusal(415, "unsupported Content-Encoding: only gzip is accepted")
    return Body(limit, packed=word in _PACKED)


def _too_long(limit: int) -> Refusal:
    return invalid(f"the body is longer than {limit // 1024} KB, the maximum in Segment")


READ_AT_ONCE: Final = 16 * 1024  # bytes: reading a longer body would keep everything else waiting

MOST_DROPPED: Final = 4 * 1024 * 1024  # bytes of a body that is refused and yet let come

NOT_TAKEN: Final = Refusal(503, "the events cannot be stored right now; nothing in this request was stored")
BUSY: Final = Refusal(503, "too many pending requests; nothing in this request was stored")
TOO_SLOW: Final = Refusal(408, "the body did not arrive in time")
_TAKEN: Final = orjson.dumps({"success": True})
_WORDS: Final = {404: "not found", 405: "method not allowed; send events with POST"}


class Api:
    """The Tracking API as an ASGI application; close it when nothing calls it any more."""

    def __init__(
        self,
        submit: Callable[[Sequence[Arrival], Sequence[RefusedEvent]], Taken],
        keys: Sequence[bytes],
        *,
        limits: SenderLimits,
        clock: Clock,
    ) -> None:
        self._submit = submit
        self._keys = keys
        self._limits = limits
        self._clock = clock.now
        self._complaints = Complaints(clock.monotonic)
        self._held = 0  # bytes of bodies
        # One thread for long bodies: more would only share the same interpreter, and hold more of them unpacked.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ingest-reader")

    def application(self) -> Starlette:
        """Return the application: every path of the API, open to browsers on any site."""
        anybody = Middleware(
            CORSMiddleware,
            allow_origins=["*"],
            allow_methods=["POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
            max_age=86_400,
        )
        application = Starlette(
            routes=[Route(path, self._answer, methods=["POST"]) for path in ENDPOINTS],
            middleware=[anybody],
            exception_handlers={HTTPException: self._no_such_place, Exception: _our_mistake},
        )
        application.router.redirect_slashes = False  # who is sent elsewhere with a POST may come back with a GET
        return application

    def close(self) -> None:
        """End the reading thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, request: Request) -> Response:
        refusal = await self._take(request, ENDPOINTS[request.scope["path"]])
        if refusal is None:
            return Response(_TAKEN, media_type="application/json")
        if refusal.status < 500:  # the others are our trouble, and `Intake` tells it
            self._complaints.note(refusal)
        return _refused(refusal, request)

    async def _take(self, request: Request, endpoint: Endpoint) -> Refusal | None:
        """Take the events of a request, or return why not; what was begun to be committed is waited for."""
        found = await self._events(request, endpoint)
        if isinstance(found, Refusal):
            return found
        if not any(found):
            return None
        if not await asyncio.wrap_future(self._submit(found.arrivals, found.refused)):
            return NOT_TAKEN
        for event in found.refused:
            self._complaints.note_event(event)
        return found.refusal

    async def _events(self, request: Request, endpoint: Endpoint) -> EventsRead | Refusal:
        known = knows_sender(request.headers.get("authorization"), self._keys)
        body = UNKNOWN if known is False else _open(request, endpoint)
        if isinstance(body, Refusal):
            await self._drop(request)
            return body
        try:
            whole = await self._receive(request, body)
            return whole if isinstance(whole, Refusal) else await self._read(whole, endpoint, known=bool(known))
        finally:
            self._held -= len(body)

    async def _receive(self, request: Request, body: Body) -> bytes | Refusal:
        """Return a body, in its time; after a piece that refuses it the rest is dropped."""
        refusal: Refusal | None = None
        dropped = 0
        try:
            async with asyncio.timeout(self._limits.body):
                async for piece in request.stream():
                    if refusal is None:
                        refusal = self._add(body, piece)
                        continue
                    dropped += len(piece)
                    if dropped > MOST_DROPPED:
                        break
        except TimeoutError:
            return refusal or TOO_SLOW
        except ClientDisconnect:
            return invalid("the body is truncated")  # nobody is there to read it
        return refusal or body.whole()

    def _add(self, body: Body, piece: bytes) -> Refusal | None:
        before = len(body)
        refusal = body.add(piece)
        self._held += len(body) - before
        return refusal or (BUSY if self._held > self._limits.held else None)

    async def _drop(self, request: Request) -> None:
        """Let a body come that nobody wants, if it is not huge: a sender may not listen before it has sent all.

        Closing a connection on which something is unread takes the answer away from its sender too.
        """
        if "expect" not in request.headers and _length(request) <= MOST_DROPPED:
            await self._receive(request, Body(0, packed=False))

    async def _no_such_place(self, request: Request, raised: Exception) -> Response:
        await self._drop(request)
        status, headers = (raised.status_code, raised.headers) if isinstance(raised, HTTPException) else (404, None)
        return _refused(Refusal(status, _WORDS.get(status, "not supported")), request, headers)

    async def _read(self, body: bytes, endpoint: Endpoint, *, known: bool) -> EventsRead | Refusal:
        keys = None if known else self._keys
        work = partial(read, body, endpoint, keys=keys, now=self._clock(), new_id=lambda: str(uuid4()))
        if len(body) <= READ_AT_ONCE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)


def _open(request: Request, endpoint: Endpoint) -> Body | Refusal:
    body = open_body(request.headers.get("content-encoding"), limit=endpoint.limit)
    return body if isinstance(body, Refusal) else body.expect(_length(request)) or body


def _length(request: Request) -> int:
    return int(request.headers.get("content-length", 0))  # a number: h11 has seen to that


def _refused(refusal: Refusal, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that is not taken."""
    more = dict(headers or {})
    if refusal.status == 503:
        more["Retry-After"] = str(RETRY_AFTER)
    # A client that waits for "100 Continue" may still send its body after this response, so the connection must end.
    if refusal.status == 408 or "expect" in request.headers:
        more["Connection"] = "close"
    return Response(refusal_body(refusal), refusal.status, more, "application/json")


def refusal_body(refusal: Refusal) -> bytes:
    """Return a refusal as Segment words it."""
    return orjson.dumps({"success": False, "message": refusal.message, "code": refusal.code})


async def _our_mistake(request: Request, _raised: Exception) -> Response:
    return _refused(Refusal(500, "internal error; nothing in this request was stored"), request)
