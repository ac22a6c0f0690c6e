"""One HTTP client for one thread: a connection for large requests to one URL, and single requests to others.

Every exchange has one deadline. Redirects are not followed, and of an answer at most `MOST_TEXT` bytes are read. A
connection that breaks or takes too long is an answer of status 0. Nothing that is returned contains a secret.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from audience_sync.core.text import short_duration
from audience_sync.destinations.http_connection import DeadlineConnection, Unanswered, is_proxied, lasting_problem
from audience_sync.destinations.outcomes import HttpAnswer

if TYPE_CHECKING:
    import httpx

MOST_TEXT: Final = 64 * 1024  # bytes of an answer that are read
LEADS_TO: Final = "audience_sync.leads_to"  # the extension of a response that keeps its Location
LONGEST_SPELLING: Final = 16  # characters that one of a secret may be written with


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


# At DEBUG these write down what a server answers, word for word, and a server may say a secret back.
for _name in ("httpx", "httpcore.http11", "httpcore.http2", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_is_warning)


@dataclass(frozen=True, kw_only=True)
class Redaction:
    """The secrets that must not appear in an answer: a function that removes them, and the length of the longest."""

    remove: Callable[[str], str]
    longest: int


class HttpClient:
    """A client for one thread: connections of one pool slow each other down in httpx."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        tls: ssl.SSLContext,
        timeout: float,
        secrets: Redaction,
        shown: str | None = None,
        refuses: Callable[[str], bool] | None = None,
    ) -> None:
        """Make a client for posts to `url`, which is `shown` in messages; see `DeadlineConnection` for `refuses`."""
        import httpx  # noqa: PLC0415 - a tenth of every start, and most commands send nothing

        self._url = url
        self._shown = shown
        self._secrets = secrets
        self._timeout = timeout  # seconds, of a whole exchange
        self._deadline = 0.0  # of the request under way, on the monotonic clock
        self._network: Any = None  # the connection, as httpcore has it
        self._client = httpx.Client(
            verify=tls,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=1),
            headers=dict(headers),
            event_hooks={"response": [_hide_location]},
        )
        self._connection = (
            None
            if is_proxied(url)
            else DeadlineConnection(url, headers=headers, tls=tls, timeout=self._timeout, refuses=refuses)
        )

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> HttpAnswer:
        """Post a body to the client's URL, with more headers for this request."""
        if self._connection is None:
            return self.ask("POST", self._url, body, headers)
        try:
            response = self._connection.post(body, at_most=MOST_TEXT + 1, headers=headers)
        except Unanswered as error:
            return self._unanswered(self._url, error, in_time=not isinstance(error, TimeoutError))
        return self._answer(response.status, response.headers, response.text)

    def ask(
        self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Send a request and read its answer, all within the timeout, which for httpx is that of each single read."""
        import httpx  # noqa: PLC0415

        self._deadline = time.monotonic() + self._timeout
        watch = threading.Timer(self._timeout, self._hang_up)
        watch.daemon = True
        watch.start()
        note = {"trace": self._note}
        try:
            with self._client.stream(method, url, content=body, headers=headers, extensions=note) as response:
                found = {**response.headers, **response.extensions.get(LEADS_TO, {})}
                return self._answer(response.status_code, found, _beginning(response))
        except httpx.TransportError as error:
            in_time = not isinstance(error, httpx.TimeoutException) and time.monotonic() < self._deadline
            return self._unanswered(url, error, in_time=in_time)
        finally:
            watch.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        if self._connection is not None:
            self._connection.close()

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes | bytearray) -> HttpAnswer:
        """Return an answer without secrets, of whose body there is a little more than `MOST_TEXT` bytes at most."""
        text = _unpacked(body, headers)
        said = self._secrets.remove(text.decode(errors="replace"))
        if max(len(body), len(text)) > MOST_TEXT:  # it may break off within a secret, where nobody would know it
            said = said[: -self._secrets.longest * LONGEST_SPELLING][:MOST_TEXT]
        return HttpAnswer(status, {name.lower(): self._secrets.remove(value) for name, value in headers.items()}, said)

    def _unanswered(self, url: str, error: Exception, *, in_time: bool) -> HttpAnswer:
        url = self._shown or url
        if (problem := lasting_problem(error)) is not None:
            return HttpAnswer(0, {}, f"{url}: {problem}", lasting=True)
        if not in_time:
            limit = short_duration(timedelta(seconds=self._timeout))
            return HttpAnswer(0, {}, f"no response from {url} within {limit}")
        return HttpAnswer(0, {}, self._secrets.remove(f"no response from {url}: {str(error) or type(error).__name__}"))

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        """Remember the connection when httpcore tells that there is one."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._network = facts["return_value"]
        if time.monotonic() >= self._deadline:  # it took as long as this to connect: nobody has hung up yet
            self._hang_up()

    def _hang_up(self) -> None:
        """End the connection from another thread, so that whoever reads from it is done."""
        if self._network is not None:
            with suppress(OSError):
                self._network.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _hide_location(response: httpx.Response) -> None:
    """Hide the Location header from httpx: redirects are never followed, and a malformed address would be an error."""
    if (location := response.headers.pop("location", None)) is not None:
        response.extensions[LEADS_TO] = {"location": location}


def _beginning(response: httpx.Response) -> bytearray:
    """Return the body of an answer, or a little more than `MOST_TEXT` bytes of it."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > MOST_TEXT:
            break
    return body


def _unpacked(body: bytes | bytearray, headers: Mapping[str, str]) -> bytes | bytearray:
    """Return the text of a body that was packed, unasked, or the beginning of it, however much there is."""
    if headers.get("content-encoding", "").strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        return body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MOST_TEXT + 1)
    except zlib.error:
        return b""  # it is read for people alone: what counts is the status
