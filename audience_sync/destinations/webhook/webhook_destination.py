"""A webhook as a `Destination`: one entry of `[[hooks]]`, with the secrets that it refers to."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import SecretStr

from audience_sync.destinations.actions import Action
from audience_sync.destinations.destination_protocol import Limits
from audience_sync.destinations.mappings import Mapping as EventMapping
from audience_sync.destinations.webhook.webhook_messages import WebhookRenderer
from audience_sync.destinations.webhook.webhook_url import shown_url

if TYPE_CHECKING:
    from audience_sync.destinations.webhook.webhook_client import WebhookClient


class WebhookSection(Protocol):
    """An entry of `[[hooks]]` in the configuration."""

    @property
    def name(self) -> str:
        """The name of the hook."""

    @property
    def url(self) -> str:
        """The URL that gets the messages."""

    @property
    def timeout(self) -> timedelta:
        """The time limit of one request."""


@dataclass(frozen=True)
class WebhookDestination:
    """A webhook, as one section of the configuration describes it: see `Destination`."""

    section: WebhookSection
    second_secret: SecretStr | None = None  # signs, too: the other one of a rotation
    headers: Mapping[str, SecretStr] = field(default_factory=dict)  # that every request has
    name: ClassVar[str] = "webhook"
    address_setting: ClassVar[str] = "webhook.url"
    credential: ClassVar[str] = "signature or the headers"
    credential_setting: ClassVar[str] = "the `secret` and `headers` of the hook"
    actions: ClassVar[Mapping[str, Action]] = {}
    limits: ClassVar[Limits] = Limits(events=100)

    @property
    def display_name(self) -> str:
        """Return its name in sentences."""
        return f"hook {self.section.name}"

    @property
    def timeout(self) -> timedelta:
        """Return the time limit of one request."""
        return self.section.timeout

    @property
    def environment_label(self) -> str:
        """Return no label: webhooks have no environments."""
        return ""

    @property
    def api_url(self) -> str:
        """Return where the URL leads."""
        return shown_url(self.section.url)

    @property
    def addresses(self) -> Mapping[str, str]:
        """Return where the URL leads, by the name of its setting."""
        return {self.address_setting: self.api_url}

    def renderer(self, *, identity: str, environment: str, mappings: Sequence[EventMapping]) -> WebhookRenderer:  # noqa: ARG002
        """Return the renderer; mappings do not apply to messages."""
        return WebhookRenderer(identity=identity, environment=environment)

    def connect(self, key: SecretStr, *, tls: ssl.SSLContext, clock: Callable[[], datetime]) -> WebhookClient:
        """Return a client that signs with a secret, and with the second one. It connects with its first request."""
        from audience_sync.destinations.webhook.webhook_client import (  # noqa: PLC0415 - most commands send nothing
            WebhookClient,
        )

        secrets = [key, *([] if self.second_secret is None else [self.second_secret])]
        return WebhookClient(self.section, secrets, headers=self.headers, tls=tls, clock=clock)

    def posted(self, body: str, *, key: str) -> str:  # noqa: ARG002
        """Return the message as it is sent: the secret is not in it."""
        return body
