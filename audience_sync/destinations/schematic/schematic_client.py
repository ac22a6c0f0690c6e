"""All HTTP to Schematic: batches of events, the environment of the key, and trait definitions.

Expected failures come back as values. The API key leaves this module only in the header and bodies of requests; it is
removed from every answer that echoes it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from pydantic import SecretStr

from audience_sync import __version__
from audience_sync.core.model import TraitType
from audience_sync.core.text import redaction
from audience_sync.destinations.destination_protocol import Diagnosis
from audience_sync.destinations.http_client import HttpClient, Redaction
from audience_sync.destinations.outcomes import HttpAnswer, Outcome, describe, is_retryable
from audience_sync.destinations.schematic import schematic_diagnoses as diagnoses
from audience_sync.destinations.schematic.schematic_destination import SchematicSection
from audience_sync.destinations.schematic.schematic_outcomes import classify
from audience_sync.destinations.schematic.wire_format import batch_body
from audience_sync.errors import DestinationAway, DestinationError, KeyRefused

KEY_HEADER = "X-Schematic-Api-Key"
NOTHING_LOST = "nothing was lost; fix the cause, then run `audience-sync deliver`"


class SchematicClient:
    """One connection to Schematic, for one thread."""

    def __init__(
        self, section: SchematicSection, key: SecretStr, *, tls: ssl.SSLContext, clock: Callable[[], datetime]
    ) -> None:
        self._section = section
        self._clock = clock
        self.key = key
        secret = key.get_secret_value()
        self._http = HttpClient(
            f"{section.capture_url}/batch",
            headers={
                KEY_HEADER: secret,
                "User-Agent": f"audience-sync/{__version__}",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",  # what is packed small may be as large as it likes
            },
            tls=tls,
            timeout=section.timeout.total_seconds(),
            secrets=Redaction(remove=redaction(secret, word="(the API key)"), longest=len(secret)),
        )

    def send(self, bodies: Sequence[str]) -> Outcome:
        """Post a batch of rendered events, and return its outcome."""
        answer = self.post_batch(batch_body(bodies, api_key=self.key.get_secret_value()))
        return classify(answer, now=self._clock())

    def post_batch(self, body: bytes) -> HttpAnswer:
        """Post a batch of events; a connection that breaks or takes too long is an answer of status 0."""
        return self._http.post(body)

    def environment(self) -> str | None:
        """Return the id of the environment that the key belongs to; None when the key may not ask.

        Raises:
            KeyRefused: the key is not accepted.
            DestinationAway: Schematic does not answer now.
            DestinationError: what answers is not Schematic.
        """
        answer = self._http.ask("GET", f"{self._section.api_url}/whoami")
        if answer.status == 404:
            answer = self._http.ask("GET", f"{self._section.api_url}/environments")
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
        answer = self._http.ask("POST", url, orjson.dumps(definition))
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
            answer = self._http.ask("GET", f"{url}&offset={page * diagnoses.PAGE}")
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
        self._http.close()

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
