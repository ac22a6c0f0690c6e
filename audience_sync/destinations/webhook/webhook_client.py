"""All HTTP of webhooks: signed posts of messages.

Redirects are not followed. No secret, and of the URL neither the path nor the query, is in an outcome or an error, even
if the receiver repeats it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from audience_sync import __version__
from audience_sync.core.model import Severity, TraitType
from audience_sync.core.text import redaction
from audience_sync.destinations.destination_protocol import Diagnosis
from audience_sync.destinations.http_client import HttpClient, Redaction
from audience_sync.destinations.outcomes import (
    BatchAccepted,
    HttpAnswer,
    Outcome,
    RefusedKey,
    WrongDestination,
    classify,
    describe,
)
from audience_sync.destinations.webhook.webhook_destination import WebhookSection
from audience_sync.destinations.webhook.webhook_signature import signed_headers
from audience_sync.destinations.webhook.webhook_url import is_link_local, shown_url

GONE: Final = 410  # the receiver wants no more messages
SHORTEST_SECRET_PART: Final = 8  # characters of a part of the path, the query or a header that is kept secret


class WebhookClient:
    """One connection to a receiver, for one thread."""

    def __init__(
        self,
        section: WebhookSection,
        secrets: Sequence[SecretStr],
        *,
        headers: Mapping[str, SecretStr],
        tls: ssl.SSLContext,
        clock: Callable[[], datetime],
    ) -> None:
        self._shown = shown_url(section.url)
        self._secrets = tuple(secrets)
        self._clock = clock
        self._http = HttpClient(
            section.url,
            headers={
                "User-Agent": f"audience-sync/{__version__}",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",  # what is packed small may be as large as it likes
                **{name: value.get_secret_value() for name, value in headers.items()},
            },
            tls=tls,
            timeout=section.timeout.total_seconds(),
            secrets=_redaction(section.url, [*secrets, *headers.values()]),
            shown=self._shown,
            refuses=is_link_local,
        )

    def send(self, bodies: Sequence[str]) -> Outcome:
        """Post messages, and return the outcome."""
        answer = self._post(bodies)
        if answer.status == GONE:
            return WrongDestination(describe(answer))
        return classify(answer, now=self._clock())

    def environment(self) -> str | None:
        """Return None: a receiver has no environments."""
        return None

    def declare(self, trait: str, trait_type: TraitType, *, display_name: str) -> str | None:  # noqa: ARG002
        """Do nothing: a receiver has no types."""
        return None

    def probe(self, *, has_key: bool) -> Iterator[Diagnosis]:
        """Yield whether the receiver accepts a request without messages; without the secret it is not asked."""
        if not has_key:
            yield Diagnosis(Severity.OK, self._shown, "not verified without the secret")
            return
        match self.send([]):
            case BatchAccepted():
                yield Diagnosis(Severity.OK, self._shown, "accepts signed requests; no message was sent")
            case RefusedKey(reason):
                yield Diagnosis(
                    Severity.ERROR, self._shown, f"refused the signature or the headers: {reason}", "check the secret"
                )
            case other:
                reason = getattr(other, "reason", "refused an empty request")
                yield Diagnosis(
                    Severity.ERROR,
                    self._shown,
                    f"does not accept messages: {reason}",
                    "check the `url` of the hook, and that its receiver runs",
                )

    def compare_types(self, types: Mapping[str, TraitType | None]) -> Iterator[Diagnosis]:  # noqa: ARG002
        """Yield nothing: a receiver has no types."""
        yield from ()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _post(self, bodies: Sequence[str]) -> HttpAnswer:
        body = f'{{"messages":[{",".join(bodies)}]}}'.encode()
        secrets = [secret.get_secret_value() for secret in self._secrets]
        answer = self._http.post(body, signed_headers(body, secrets, now=self._clock()))
        location = answer.headers.get("location")
        if location is not None:  # often the same URL with https, a slash or another host: its path stays secret
            answer = replace(answer, headers={**answer.headers, "location": _origin(location)})
        return answer


def _origin(location: str) -> str:
    """Return where a redirect leads, without its path and query, which are removed already if they are ours."""
    found = re.match(r"https?://[A-Za-z0-9.\-:\[\]]+", location)
    return "another path" if found is None else found[0]


def _long(texts: Iterable[str]) -> list[str]:
    """Return the texts that are long enough to be secret, and to be no word of an answer by chance."""
    return [text for text in texts if len(text) >= SHORTEST_SECRET_PART]


def _redaction(url: str, secrets: Sequence[SecretStr]) -> Redaction:
    """Return what removes the secrets, and the path and the query of the URL, from a text, whole or in part."""
    parts = urlsplit(url)
    hidden = {text: f"(the {name})" for name, text in (("path", parts.path), ("query", parts.query)) if len(text) > 1}
    hidden |= dict.fromkeys(_long(parts.path.split("/")), "(the path)")
    hidden |= dict.fromkeys(_long(value for _, value in parse_qsl(parts.query)), "(the query)")
    for secret in secrets:
        hidden |= dict.fromkeys([secret.get_secret_value(), *_long(secret.get_secret_value().split())], "(a secret)")
    removals = [redaction(text, word=hidden[text]) for text in sorted(filter(None, hidden), key=len, reverse=True)]

    def remove(text: str) -> str:
        for removal in removals:
            text = removal(text)
        return text

    return Redaction(remove=remove, longest=max(map(len, hidden), default=0))
