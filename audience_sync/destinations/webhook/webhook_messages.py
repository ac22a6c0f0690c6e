"""The messages of webhooks: JSON objects with a stable `id`, the change, the user and the companies.

A message of the type `entered`, `exited` or `updated` has the `audience` or the computed `trait` with its key and name,
its `value`, the keys of the user and of their company, `at` (the time of the run) and `initial` (of a first sync, or of
a hook that began with the members). A message of the type `deleted` has the identity of the user, and `at`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from operator import attrgetter
from typing import Any

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Computation, Json, TraitType
from audience_sync.destinations.destination_protocol import Coverage
from audience_sync.destinations.mappings import Mapping as EventMapping
from audience_sync.destinations.open_changes import OpenChange, OpenChanges
from audience_sync.destinations.rendered_events import (
    DELETED,
    BatchContents,
    Carried,
    ForwardedEvent,
    ForwardedProfileEvents,
    Origin,
    ProfileEvents,
    RenderedEvent,
    facts_of,
    idempotency_key,
)
from audience_sync.segment.segment_events import SegmentEvent

FORMAT = "webhook/1"
"""The format of messages: another one would have other ids."""


@dataclass(frozen=True, kw_only=True)
class WebhookRenderer:
    """The renderer of webhooks: see `Renderer`. No mappings apply."""

    identity: str
    environment: str

    @property
    def undecided(self) -> Sequence[EventMapping]:
        """Return nothing: no mappings apply."""
        return ()

    def event(self, changes: Sequence[OpenChange], identifiers: str | None, *, at: str) -> SegmentEvent:
        """Return the message about the first of some changes of a profile."""
        return self._unqueued("", changes[0]._replace(identifiers=identifiers), at=at)

    def profile_events(self, changes: Sequence[OpenChange], *, at: str) -> list[ProfileEvents]:
        """Return a message for each change, without the name of the audience; deliveries and plans use `forwarded`."""
        return [
            ProfileEvents([event for one in of_one for event in self.apart(one, mappings=(), at=at).events], [])
            for _, of_one in groupby(changes, key=attrgetter("profile_key"))
        ]

    def batch(self, changes: OpenChanges, *, at: str) -> BatchContents | None:  # noqa: ARG002 - no need for a quick way
        """Return None: large syncs do not render messages."""
        return None

    def apart(self, change: OpenChange, *, mappings: Collection[str], at: str) -> ProfileEvents:  # noqa: ARG002
        """Return the message about one change."""
        key = idempotency_key(self.environment, change.profile_key, facts_of(FORMAT, [change]))
        body = exact_json.dumps(self._unqueued(key, change, at=at)).decode()
        event = RenderedEvent(change.profile_key, key, body, change.identifiers, (Carried.of(change),))
        return ProfileEvents([event], [])

    def forwarded(self, waiting: Sequence[ForwardedEvent], *, most: int) -> ForwardedProfileEvents:
        """Return the messages of the first of some queued rows of one profile; at most `most`."""
        found = ForwardedProfileEvents([], [], [], [])
        for row in waiting:
            key = self._id(row)
            if key in row.accepted:
                found.over.append(row)
                continue
            if len(found.events) == most:
                break
            body = exact_json.dumps(self._queued(key, row)).decode()
            found.events.append(RenderedEvent(row.profile_key, key, body, None, (), (), Origin(row, shared=False)))
        return found

    def coverage(
        self,
        trait: str,  # noqa: ARG002
        *,
        user_keys: Collection[str],  # noqa: ARG002
        company_keys: Collection[str],  # noqa: ARG002
        computation: Computation,  # noqa: ARG002
        trait_type: TraitType | None,  # noqa: ARG002
    ) -> Coverage:
        """Return that every change makes one message."""
        return Coverage([], [], [], 1, sets_trait=True)

    def user_traits(self, event: SegmentEvent) -> set[str]:  # noqa: ARG002
        """Return nothing: webhooks do not get forwarded events."""
        return set()

    def _id(self, row: ForwardedEvent) -> str:
        """Return the id of a message: the same for the same row, however often it is sent."""
        named = [FORMAT, self.environment, row.profile_key, row.message_id, orjson.Fragment(row.payload)]
        return blake2b(orjson.dumps(named), digest_size=16).hexdigest()

    def _queued(self, key: str, row: ForwardedEvent) -> dict[str, Json]:
        facts: Any = exact_json.loads(row.payload)
        if facts["type"] == DELETED:
            user: dict[str, Json] = {"keys": {self.identity: row.profile_key}}
            return {"id": key, "type": DELETED, "user": user, "at": facts["at"]}
        subject: dict[str, Json] = {"key": facts["key"], "name": facts["name"]}
        keys = self._keys(row.profile_key, facts["identifiers"] or {})
        message = _message(key, facts["type"], {facts["computation"]: subject}, facts["value"], keys, at=facts["at"])
        return {**message, "initial": facts["initial"]}

    def _unqueued(self, key: str, change: OpenChange, *, at: str) -> dict[str, Json]:
        keys = self._keys(change.profile_key, exact_json.loads(change.identifiers or "{}"))
        subject: dict[str, Json] = {str(change.computation): {"key": change.trait}}
        return _message(key, change.kind, subject, exact_json.loads(change.value), keys, at=at)

    def _keys(self, profile_key: str, identifiers: Any) -> dict[str, Json]:
        """Return the keys of a user and of their company; `identifiers` are those of a `Member`."""
        found: dict[str, Json] = {"user": {"keys": {self.identity: profile_key, **identifiers.get("user", {})}}}
        if company := identifiers.get("company"):
            found["company"] = {"keys": company}
        return found


def _message(
    key: str, kind: str, subject: dict[str, Json], value: Json, keys: dict[str, Json], *, at: str
) -> dict[str, Json]:
    """Return a message about a change of the audience or computed trait that is its subject."""
    return {"id": key, "type": kind, **subject, "value": value, **keys, "at": at}
