"""One HTTP connection that stays open, for one thread: many large requests, each answered within one deadline.

This is the standard library's `http.client`: a batch of events costs a quarter of what it costs with httpx, and the
time limit holds for the whole exchange rather than for each single read.
"""

from __future__ import annotations

import io
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from audience_sync.errors import ConfigError

# --- trusted authorities ----------------------------------------------------------------------------------------------
# Certificate authorities that TLS trusts, and the message for a server whose certificate fails.

_CLOCK = "renew it on the server or correct this machine's clock"
_NAME = "certificate is for another host; check the address"
_SIGNER = (
    "certificate signed by an unknown authority;"
    " behind a TLS-inspecting proxy, set SSL_CERT_FILE to the proxy's CA bundle"
)
_CERTIFICATES: Final[Mapping[int, str]] = {  # by OpenSSL's X509_V_ERR_…
    9: f"certificate not yet valid; {_CLOCK}",
    10: f"certificate expired; {_CLOCK}",
    18: _SIGNER,
    19: _SIGNER,
    20: _SIGNER,
    21: _SIGNER,
    62: _NAME,
    64: _NAME,
}
_OTHER_PROTOCOLS: Final = frozenset({"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"})


def trusted_authorities() -> ssl.SSLContext:
    """Return how TLS is spoken: with the authorities of SSL_CERT_FILE or SSL_CERT_DIR, else those that httpx brings.

    Raises:
        ConfigError: they cannot be read.
    """
    name = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), "certifi")
    try:
        return _bundled_authorities() if name == "certifi" else _authorities()
    except OSError as error:  # ssl.SSLError is one, too
        raise ConfigError(
            f"cannot read the certificates from {name}={os.environ.get(name, 'a Python package')}: {error}",
            hint=f"set {name} to a PEM file with certificates, or unset it",
        ) from None


@cache
def _bundled_authorities() -> ssl.SSLContext:
    """Return the authorities of certifi, read once: the file does not change, and reading it takes long."""
    return _authorities()


def _authorities() -> ssl.SSLContext:
    import httpx  # noqa: PLC0415 - a tenth of every start, and most commands open no connection

    return httpx.create_ssl_context()


def lasting_problem(error: BaseException) -> str | None:
    """Return what keeps us from trusting who answers, and the remedy; None when the next try may go better."""
    if isinstance(error, AddressRefused):
        return str(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        usual = f"certificate verification failed ({cause.verify_message})"
        return _CERTIFICATES.get(cause.verify_code, usual)
    if cause is not None and cause.reason in _OTHER_PROTOCOLS:
        return "the server and this machine have no TLS version in common; check the port and the scheme"
    return None


# --- connection -------------------------------------------------------------------------------------------------------

Unanswered = (OSError, HTTPException)
"""The exceptions that `DeadlineConnection.post` raises without an answer; `TimeoutError` if it did not come in time."""


def is_proxied(url: str) -> bool:
    """Return whether requests to a URL go through a proxy, as HTTPS_PROXY and the like say; httpx sends these."""
    parts = urlsplit(url)
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.hostname or "")


class Response(NamedTuple):
    """An answer: its headers by name in lower case, and the beginning of its body."""

    status: int
    headers: dict[str, str]
    text: bytes


class DeadlineConnection:
    """Posts to one server; opened for the first request, and again after the server has closed it."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        tls: ssl.SSLContext,
        timeout: float,
        refuses: Callable[[str], bool] | None = None,
    ) -> None:
        """Prepare a connection; `refuses` says of an IP address that no connection to it is opened."""
        parts = urlsplit(url)
        self._path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        self._headers = dict(headers)
        self._timeout = timeout  # seconds, of a whole exchange
        host = parts.hostname or ""
        self._http = (
            HTTPSConnection(host, parts.port or 443, context=tls)  # without a port it looks for one in an IPv6 address
            if parts.scheme == "https"
            else HTTPConnection(host, parts.port or 80)
        )
        self._http.response_class = _FinalResponse
        if refuses is not None:
            self._http._create_connection = _dialer(refuses)  # type: ignore[attr-defined]  # noqa: SLF001

    def post(self, body: bytes, *, at_most: int, headers: Mapping[str, str] | None = None) -> Response:
        """Post a body, with more headers, and return the answer, with `at_most` bytes of its text.

        Raises:
            TimeoutError: the whole answer did not come within the timeout.
            OSError, HTTPException: the connection cannot be opened, breaks, or the answer is not valid HTTP.
        """
        deadline = time.monotonic() + self._timeout
        try:
            self._open(deadline)
            unsent = self._send(body, headers)
            answer = self._http.getresponse()
            if unsent is not None and 200 <= answer.status < 300:  # the server cannot have read the rest
                raise unsent  # noqa: TRY301 - it ends the connection like any other
            text = _beginning(answer, at_most)
            headers = {name.lower(): value for name, value in answer.getheaders()}
            if unsent is not None or not answer.isclosed():  # the rest of the answer is not read
                self.close()
        except BaseException:
            self.close()
            raise
        return Response(answer.status, headers, text)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        with suppress(OSError):
            self._http.close()

    def _send(self, body: bytes, headers: Mapping[str, str] | None) -> ConnectionError | None:
        """Send a request; return the error if the server stopped reading it. It may have answered, as with 413."""
        try:
            self._http.request("POST", self._path, body, {**self._headers, **(headers or {})})
        except ConnectionError as error:
            return error
        return None

    def _open(self, deadline: float) -> None:
        timed: Any = self._http.sock
        if timed is not None and timed.has_ended():
            self.close()
        if self._http.sock is None:
            self._http.timeout = max(0.001, deadline - time.monotonic())
            self._http.connect()
            opened: Any = self._http.sock
            self._http.sock = timed = _Timed(opened)
        timed.deadline = deadline


class AddressRefused(OSError):
    """A host has an address to which no connection is opened."""


def _dialer(refuses: Callable[[str], bool]) -> Callable[..., socket.socket]:
    """Return a replacement of `socket.create_connection` that connects to no refused address."""

    def dial(address: tuple[str, int], timeout: float, _source: object = None) -> socket.socket:
        host, port = address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        numbers = [str(place[0]) for *_, place in found]
        if any(map(refuses, numbers)):
            raise AddressRefused(f"{host} has a link-local address, to which nothing is sent")
        error: OSError = OSError(f"{host} has no address")
        for number in dict.fromkeys(numbers):  # as checked: a second lookup might find others
            try:
                return socket.create_connection((number, port), timeout)
            except OSError as failed:
                error = failed
        raise error

    return dial


class _FinalResponse(HTTPResponse):
    """The final answer, after interim ones such as 103, with complete headers."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = self.msg = None  # type: ignore[assignment]  # `begin` returns at once if it has headers
            super().begin()
        if self.fp.raw.has_ended:  # type: ignore[attr-defined]  # it is a `_TimedReader`
            raise HTTPException("the response ends before its headers are complete")
        if self.headers.defects:
            raise HTTPException("malformed header line in the response")


def _beginning(answer: HTTPResponse, at_most: int) -> bytes:
    text = b""
    while len(text) < at_most and (piece := answer.read(at_most - len(text))):
        text += piece
    if len(text) < at_most and answer.length:
        raise IncompleteRead(text, answer.length)
    return text


class _Timed:
    """A socket for `http.client` with one deadline for every step."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.deadline = 0.0  # on the monotonic clock

    def has_ended(self) -> bool:
        """Return whether the server has closed it, or has sent something without a request."""
        poll = select.poll()
        poll.register(self._inner, select.POLLIN)
        return bool(poll.poll(0))

    def sendall(self, data: bytes) -> None:
        self.apply_deadline()
        self._inner.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        # `http.client` closes the socket before it reads the last answer of a connection. The file that `makefile`
        # returns keeps the socket open until the file is closed.
        return io.BufferedReader(_TimedReader(self, self._inner.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._inner.close()

    def apply_deadline(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._inner.settimeout(left)


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: _Timed, raw: io.RawIOBase) -> None:
        self._timed = timed
        self._raw = raw
        self.has_ended = False  # nothing more can come

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed.apply_deadline()
        count = self._raw.readinto(buffer)
        self.has_ended = count == 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
