"""The protocols that every destination implements: `Destination`, `Renderer` and `DestinationClient`.

`sync`, `delivery`, `checks`, `daemon`, `tracking_api` and the command line know nothing else of a destination.
Rendering is pure: it makes events of changes without a clock, a database or the network. A client is one connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple, Protocol

from pydantic import SecretStr

from audience_sync.core.model import Computation, Severity, TraitType
from audience_sync.destinations.actions import Action
from audience_sync.destinations.mappings import Mapping as EventMapping
from audience_sync.destinations.open_changes import OpenChange, OpenChanges
from audience_sync.destinations.outcomes import Outcome
from audience_sync.destinations.rendered_events import (
    BatchContents,
    ForwardedEvent,
    ForwardedProfileEvents,
    ProfileEvents,
)
from audience_sync.segment.segment_events import SegmentEvent


@dataclass(frozen=True)
class Limits:
    """The most that a destination takes in one request."""

    events: int


class Coverage(NamedTuple):
    """How the changes of an audience reach a destination: errors, surprises, and the number of events."""

    rejections: list[str]  # by mappings that match its changes, and cannot make an event of them
    gaps: list[str]  # facts that the destination would not get
    surprises: list[str]
    events: int  # that one change becomes at most
    sets_trait: bool  # of the user, under the audience's own key

    @property
    def errors(self) -> list[str]:
        """Return why the audience cannot be synced."""
        return self.rejections + self.gaps


class Diagnosis(NamedTuple):
    """One fact that `check` reports about a destination; `subject` is a URL, or the key of a trait."""

    severity: Severity
    subject: str
    sentence: str
    remedy: str | None = None
    is_about_trait: bool = False


class Renderer(Protocol):
    """Makes the events of one environment of a destination, with the mappings of one configuration."""

    @property
    def undecided(self) -> Sequence[EventMapping]:
        """Return the enabled mappings that depend on the environment, as long as it is not known."""

    def event(self, changes: Sequence[OpenChange], identifiers: str | None, *, at: str) -> SegmentEvent:
        """Return changes of one profile as one Segment event, as the mappings see it."""

    def profile_events(self, changes: Sequence[OpenChange], *, at: str) -> list[ProfileEvents]:
        """Return the events of the open changes of each profile; the changes of a profile are neighbours.

        The same changes make events with the same idempotency keys; a change of a new generation makes new ones.
        """

    def batch(self, changes: OpenChanges, *, at: str) -> BatchContents | None:
        """Return the events of changes of different profiles in one step, or None if `profile_events` must make them.

        A large sync calls nothing else: it must not cost more than some microseconds a change.
        """

    def apart(self, change: OpenChange, *, mappings: Collection[str], at: str) -> ProfileEvents:
        """Return the events that the enabled mappings of these names make of one change alone."""

    def forwarded(self, waiting: Sequence[ForwardedEvent], *, most: int) -> ForwardedProfileEvents:
        """Return the events of the first of some waiting events of one profile; at most `most`, if they fit."""

    def coverage(
        self,
        trait: str,
        *,
        user_keys: Collection[str],
        company_keys: Collection[str],
        computation: Computation,
        trait_type: TraitType | None,
    ) -> Coverage:
        """Return how the changes of an audience or computed trait with these keys reach the destination.

        While the environment is not known, the mappings that depend on it are left out, and nothing counts as a gap.
        """

    def user_traits(self, event: SegmentEvent) -> set[str]:
        """Return the names of the user traits that a forwarded event would set."""


class DestinationClient(Protocol):
    """One connection to a destination, for one thread. Nothing that it returns or raises contains the API key."""

    def send(self, bodies: Sequence[str]) -> Outcome:
        """Send a batch of rendered events, and return its outcome; a lost connection is an outcome, too."""

    def environment(self) -> str | None:
        """Return the id of the environment that the API key belongs to; None if the key may not read it.

        Raises:
            KeyRefused: the key is not accepted.
            DestinationAway: the destination does not answer now.
            DestinationError: the address does not lead to the destination.
        """

    def declare(self, trait: str, trait_type: TraitType, *, display_name: str) -> str | None:
        """Declare the type of a user trait; return the problem, or None. A destination without types does nothing."""

    def probe(self, *, has_key: bool) -> Iterator[Diagnosis]:
        """Yield whether the destination takes batches, without sending an event; `has_key`: the key is a real one."""

    def compare_types(self, types: Mapping[str, TraitType | None]) -> Iterator[Diagnosis]:
        """Yield the traits that the destination knows with other types than these, and whether the clocks agree."""

    def close(self) -> None:
        """Close the connection."""


class Destination(Protocol):
    """One destination with its section of the configuration."""

    name: ClassVar[str]  # of its section in the configuration, and of its check
    address_setting: ClassVar[str]  # the setting of the URL that batches are sent to
    credential: ClassVar[str]  # in sentences: what a request is refused for with 401 and 403
    credential_setting: ClassVar[str]
    actions: ClassVar[Mapping[str, Action]]  # by name
    limits: ClassVar[Limits]

    @property
    def display_name(self) -> str:
        """Return its name in sentences."""

    @property
    def timeout(self) -> timedelta:
        """Return the time limit of one request."""

    @property
    def environment_label(self) -> str:
        """Return the environment that the configuration names, for keys that cannot read theirs; "" for none."""

    @property
    def api_url(self) -> str:
        """Return the URL that `DestinationClient.environment` asks, for messages."""

    @property
    def addresses(self) -> Mapping[str, str]:
        """Return the URLs that get the API key, by the names of their settings."""

    def renderer(self, *, identity: str, environment: str, mappings: Sequence[EventMapping]) -> Renderer:
        """Return the renderer for an environment whose id or label is given, "" if it is not known."""

    def connect(self, key: SecretStr, *, tls: ssl.SSLContext, clock: Callable[[], datetime]) -> DestinationClient:
        """Return a client. It connects with its first request."""

    def posted(self, body: str, *, key: str) -> str:
        """Return the body of a rendered event as it is sent, with `key` in place of the API key."""
