"""Schematic as a `Destination`: its name, actions, limits and settings."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import SecretStr

from audience_sync.destinations.actions import Action
from audience_sync.destinations.destination_protocol import Limits
from audience_sync.destinations.mappings import Mapping as EventMapping
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.destinations.schematic.schematic_renderer import SchematicRenderer
from audience_sync.destinations.schematic.wire_format import DISPLAY_NAME, with_key

if TYPE_CHECKING:
    from audience_sync.destinations.schematic.schematic_client import SchematicClient


class SchematicSection(Protocol):
    """The section `[schematic]` of the configuration."""

    @property
    def capture_url(self) -> str:
        """The URL of batches of events."""

    @property
    def api_url(self) -> str:
        """The URL of everything else."""

    @property
    def timeout(self) -> timedelta:
        """The time limit of one request."""

    @property
    def environment(self) -> str:
        """The label of the environment, for keys that cannot read theirs."""


@dataclass(frozen=True)
class SchematicDestination:
    """Schematic, as one section of the configuration describes it: see `Destination`."""

    section: SchematicSection
    name: ClassVar[str] = "schematic"
    display_name: ClassVar[str] = DISPLAY_NAME
    address_setting: ClassVar[str] = "schematic.capture_url"
    credential: ClassVar[str] = "API key"
    credential_setting: ClassVar[str] = "schematic.api_key"
    actions: ClassVar[Mapping[str, Action]] = ACTIONS
    limits: ClassVar[Limits] = Limits(events=100)

    @property
    def timeout(self) -> timedelta:
        """Return the time limit of one request."""
        return self.section.timeout

    @property
    def environment_label(self) -> str:
        """Return the environment that the configuration names."""
        return self.section.environment

    @property
    def api_url(self) -> str:
        """Return the URL of everything but events."""
        return self.section.api_url

    @property
    def addresses(self) -> Mapping[str, str]:
        """Return the URLs that get the API key, by the names of their settings."""
        return {"schematic.capture_url": self.section.capture_url, "schematic.api_url": self.section.api_url}

    def renderer(self, *, identity: str, environment: str, mappings: Sequence[EventMapping]) -> SchematicRenderer:
        """Return the renderer for an environment."""
        return SchematicRenderer(identity=identity, environment=environment, mappings=tuple(mappings))

    def connect(self, key: SecretStr, *, tls: ssl.SSLContext, clock: Callable[[], datetime]) -> SchematicClient:
        """Return a client. It connects with its first request."""
        from audience_sync.destinations.schematic.schematic_client import (  # noqa: PLC0415 - most commands send nothing
            SchematicClient,
        )

        return SchematicClient(self.section, key, tls=tls, clock=clock)

    def posted(self, body: str, *, key: str) -> str:
        """Return the body of a rendered event as it is sent, with `key` in place of the API key."""
        return with_key(body, api_key=key)
