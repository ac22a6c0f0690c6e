"""What the waiting Segment events of one profile come to: events for Schematic, and those of which nothing is sent.

Events are facts: each is judged for itself, none is joined with others, and their order stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from audience_sync.core import exact_json
from audience_sync.destinations.schematic.actions import Rejection, RejectionReason
from audience_sync.destinations.schematic.mapping_rules import Verdict, judge
from audience_sync.destinations.schematic.parcels import Destination
from audience_sync.destinations.schematic.wire_events import (
    Event,
    Forwarded,
    Origin,
    forwarded_key,
    with_idempotency_key,
)
from audience_sync.segment.segment_events import SegmentEvent


class Unsent(NamedTuple):
    """A forwarded event, and why nothing, or nothing more, is sent of it."""

    event: Forwarded
    reason: str


class ForwardedParcel(NamedTuple):
    """What waiting events of one profile come to."""

    events: list[Event]
    unsent: list[Unsent]  # counted and gone: the mappings, or the event itself, ask for nothing
    dead: list[Unsent]  # a mapping wants them and cannot make its body: a person mends it; others may have made theirs
    over: list[Forwarded]  # Schematic has every body already


def make_forwarded(waiting: Sequence[Forwarded], destination: Destination, *, most: int) -> ForwardedParcel:
    """Return the events made of the first of some waiting events, all of one profile; at most `most`, if they fit.

    The bodies of one event stay together, however many they are. What is beyond waits until these are accepted.
    """
    parcel = ForwardedParcel([], [], [], [])
    for forwarded in waiting:
        verdict = judge(_event(forwarded), destination.enabled)
        events = _events(forwarded, verdict, destination.environment)
        if parcel.events and len(parcel.events) + len(events) > most:
            break
        parcel.events.extend(events)
        mistake = _mistake(verdict)
        if mistake is not None:
            parcel.dead.append(Unsent(forwarded, mistake))
        elif not verdict.bodies:
            parcel.unsent.append(Unsent(forwarded, _absence(verdict)))
        elif not events:
            parcel.over.append(forwarded)
    return parcel


def _event(forwarded: Forwarded) -> SegmentEvent:
    found = exact_json.loads(forwarded.payload)
    return found if isinstance(found, dict) else {}  # only objects are taken


def _events(forwarded: Forwarded, verdict: Verdict, environment: str) -> list[Event]:
    """Return the bodies of a forwarded event as events, each under a key of its own, but those accepted before."""
    profile_key, _, message_id, *_ = forwarded
    origin = Origin(forwarded, len(verdict.bodies) + len(verdict.rejections) > 1)
    digests: list[str] = []
    events = []
    for mapping, made in verdict.bodies:
        digests.append(mapping.digest)
        key = forwarded_key(environment, message_id, mapping.digest, digests.count(mapping.digest))
        if key not in forwarded.accepted:
            text = with_idempotency_key(made.text.decode(), key)
            events.append(Event(profile_key, key, text, None, (), (mapping.name,), origin))
    return events


def _mistake(verdict: Verdict) -> str | None:
    """Return why a mapping that wants an event cannot make a body of it, unless that is as expected."""
    for mapping, rejection in verdict.rejections:
        if not _names_nobody(rejection):
            return f"mapping {mapping.name!r}: {rejection.sentence}"
    return None


def _absence(verdict: Verdict) -> str:
    """Return the code of the reason why nothing is sent of an event."""
    if verdict.kept_away is not None:
        return verdict.kept_away
    mapping, rejection = verdict.rejections[0]
    return f"{mapping.name}: {rejection.reason}"


def _names_nobody(rejection: Rejection) -> bool:
    """Return whether no user is named, which is nobody's mistake: visitors are anonymous until they sign in."""
    missing = rejection.reason is RejectionReason.MISSING_FIELD and rejection.field == "user_keys"
    return missing or rejection.reason is RejectionReason.EMPTY_USER_KEYS
