"""All HTTP to Schematic: batches of events, the environment of the key, and trait definitions.

Expected failures come back as values. The API key leaves this module only in the header and bodies of requests; it is
removed from every answer that echoes it.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import SecretStr

from audience_sync import __version__
from audience_sync.core.model import TraitType
from audience_sync.core.text import redaction
from audience_sync.destinations.destination_protocol import Diagnosis
from audience_sync.destinations.http_connection import DeadlineConnection, Unanswered, is_proxied, lasting_problem
from audience_sync.destinations.outcomes import HttpAnswer, Outcome, describe, is_retryable
from audience_sync.destinations.schematic import schematic_diagnoses as diagnoses
from audience_sync.destinations.schematic.schematic_destination import SchematicSection
from audience_sync.destinations.schematic.schematic_outcomes import classify
from audience_sync.destinations.schematic.wire_format import batch_body
from audience_sync.errors import DestinationAway, DestinationError, KeyRefused

if TYPE_CHECKING:
    import httpx

KEY_HEADER = "X-Schematic-Api-Key"
MOST_TEXT = 64 * 1024  # bytes of an answer that are read
LEADS_TO = "audience_sync.leads_to"  # the extension of a response that keeps its Location
NOTHING_LOST = "nothing was lost; fix the cause, then run `audience-sync deliver`"
LONGEST_SPELLING = 16  # characters that one of the key may be written with


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


# At DEBUG these write down what a server answers, word for word, and a server may say the key back.
for _name in ("httpx", "httpcore.http11", "httpcore.http2", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_is_warning)


class SchematicClient:
    """One connection to Schematic, for one thread: connections of one pool slow each other down in httpx."""

    def __init__(
        self, section: SchematicSection, key: SecretStr, *, tls: ssl.SSLContext, clock: Callable[[], datetime]
    ) -> None:
        import httpx  # noqa: PLC0415 - a tenth of every start, and most commands send nothing

        self._section = section
        self._clock = clock
        self.key = key
        self._without_key = redaction(key.get_secret_value(), word="(the API key)")
        self._timeout = section.timeout.total_seconds()
        self._deadline = 0.0  # of the request under way, on the monotonic clock
        self._network: Any = None  # the connection, as httpcore has it
        headers = {
            KEY_HEADER: key.get_secret_value(),
            "User-Agent": f"audience-sync/{__version__}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",  # what is packed small may be as large as it likes
        }
        self._client = httpx.Client(
            verify=tls,
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=1),
            headers=headers,
            event_hooks={"response": [_hide_location]},
        )
        self._batches = f"{section.capture_url}/batch"
        self._connection = (
            None
            if is_proxied(self._batches)
            else DeadlineConnection(self._batches, headers=headers, tls=tls, timeout=self._timeout)
        )

    def send(self, bodies: Sequence[str]) -> Outcome:
        """Post a batch of rendered events, and return its outcome."""
        answer = self.post_batch(batch_body(bodies, api_key=self.key.get_secret_value()))
        return classify(answer, now=self._clock())

    def post_batch(self, body: bytes) -> HttpAnswer:
        """Post a batch of events; a connection that breaks or takes too long is an answer of status 0."""
        if self._connection is None:
            return self._ask("POST", self._batches, body)
        try:
            response = self._connection.post(body, at_most=MOST_TEXT + 1)
        except Unanswered as error:
            return self._unanswered(self._batches, error, in_time=not isinstance(error, TimeoutError))
        return self._answer(response.status, response.headers, response.text)

    def environment(self) -> str | None:
        """Return the id of the environment that the key belongs to; None when the key may not ask.

        Raises:
            KeyRefused: the key is not accepted.
            DestinationAway: Schematic does not answer now.
            DestinationError: what answers is not Schematic.
        """
        answer = self._ask("GET", f"{self._section.api_url}/whoami")
        if answer.status == 404:
            answer = self._ask("GET", f"{self._section.api_url}/environments")
        if answer.status == 403:
            return None
        data = _data(self._accepted(answer))
        if isinstance(data, dict) and isinstance(data.get("environment_id"), str):
            return str(data["environment_id"])
        known = data.get("environments") if isinstance(data, dict) else data
        if isinstance(known, list) and len(known) == 1 and isinstance(known[0], dict):
            return str(known[0].get("id") or "") or None
        return None

    def declare(self, trait: str, trait_type: TraitType, *, display_name: str) -> str | None:
        """Declare the type of a user trait, if Schematic does not know it; return what went wrong, or None."""
        definition = {
            "entity_type": "user",
            "hierarchy": [trait],
            "trait_type": trait_type.value,
            "display_name": display_name,
        }
        url = f"{self._section.api_url}/entity-trait-definitions"
        answer = self._ask("POST", url, orjson.dumps(definition))
        if not 200 <= answer.status < 300:
            return describe(answer)
        try:
            data = _data(answer)
        except DestinationError as error:
            return str(error)
        known = data.get("trait_type") if isinstance(data, dict) else None
        return None if known in (None, trait_type) else f"its type in Schematic is {known}, not {trait_type}"

    def probe(self, *, has_key: bool) -> Iterator[Diagnosis]:
        """Yield whether the host takes batches, as far as its answer to an empty one tells."""
        answer = self.post_batch(diagnoses.EMPTY_BATCH)
        yield diagnoses.of_capture(self._section.capture_url, answer, has_key=has_key, now=self._clock())

    def compare_types(self, types: Mapping[str, TraitType | None]) -> Iterator[Diagnosis]:
        """Yield the traits that Schematic knows with other types than these, and whether the clocks agree."""
        url = f"{self._section.api_url}/entity-trait-definitions?entity_type=user&limit={diagnoses.PAGE}"
        for page in range(diagnoses.PAGES):
            answer = self._ask("GET", f"{url}&offset={page * diagnoses.PAGE}")
            if page == 0:
                yield from diagnoses.of_clock(self._section.api_url, answer, self._clock())
            found = diagnoses.definitions(answer)
            if found is None:
                yield diagnoses.unreadable_types(answer)
                return
            yield from diagnoses.of_types(found, types)
            if len(found) < diagnoses.PAGE:
                return

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        if self._connection is not None:
            self._connection.close()

    def _accepted(self, answer: HttpAnswer) -> HttpAnswer:
        if 200 <= answer.status < 300:
            return answer
        where = self._section.api_url
        if answer.status == 401:
            raise KeyRefused(f"{where} refused the API key: {describe(answer)}", hint="check schematic.api_key")
        if answer.lasting:
            raise DestinationError(f"cannot confirm that {where} is Schematic: {describe(answer)}", hint=NOTHING_LOST)
        if is_retryable(answer.status):
            raise DestinationAway(f"{where} is unavailable: {describe(answer)}")
        raise DestinationError(f"{where} is not Schematic's API: {describe(answer)}", hint="check schematic.api_url")

    def _ask(self, method: str, url: str, body: bytes | None = None) -> HttpAnswer:
        """Send a request and read its answer, all within the timeout, which for httpx is that of each single read."""
        import httpx  # noqa: PLC0415

        self._deadline = time.monotonic() + self._timeout
        watch = threading.Timer(self._timeout, self._hang_up)
        watch.daemon = True
        watch.start()
        try:
            with self._client.stream(method, url, content=body, extensions={"trace": self._note}) as response:
                found = {**response.headers, **response.extensions.get(LEADS_TO, {})}
                return self._answer(response.status_code, found, _beginning(response))
        except httpx.TransportError as error:
            in_time = not isinstance(error, httpx.TimeoutException) and time.monotonic() < self._deadline
            return self._unanswered(url, error, in_time=in_time)
        finally:
            watch.cancel()

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes | bytearray) -> HttpAnswer:
        """Return an answer without the key, of whose body there is a little more than `MOST_TEXT` bytes at most."""
        text = _unpacked(body, headers)
        said = self._without_key(text.decode(errors="replace"))
        if max(len(body), len(text)) > MOST_TEXT:  # it may break off within the key, where nobody would know it
            said = said[: -len(self.key) * LONGEST_SPELLING][:MOST_TEXT]
        return HttpAnswer(status, {name.lower(): self._without_key(value) for name, value in headers.items()}, said)

    def _unanswered(self, url: str, error: Exception, *, in_time: bool) -> HttpAnswer:
        if (problem := lasting_problem(error)) is not None:
            return HttpAnswer(0, {}, f"{url}: {problem}", lasting=True)
        if not in_time:
            return HttpAnswer(0, {}, f"no response from {url} within {self._timeout:g} s")
        return HttpAnswer(0, {}, self._without_key(f"no response from {url}: {str(error) or type(error).__name__}"))

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


def _data(answer: HttpAnswer) -> Any:
    """Return the ``data`` of Schematic's envelope.

    Raises:
        DestinationError: the answer is not a JSON object.
    """
    try:
        return orjson.loads(answer.text)["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise DestinationError(
            f"the response is not from Schematic's API: {describe(answer)}", hint="check schematic.api_url"
        ) from None
