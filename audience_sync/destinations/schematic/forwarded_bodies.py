"""Render the waiting Segment events of one profile: events of Schematic, and those that nothing is sent of.

Events are facts: each is judged for itself, none is joined with others, and their order stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from audience_sync.core import exact_json
from audience_sync.destinations.actions import BodyRejection, RejectionReason
from audience_sync.destinations.mappings import Mapping, Verdict, judge
from audience_sync.destinations.rendered_events import (
    ForwardedEvent,
    ForwardedProfileEvents,
    Origin,
    RenderedEvent,
    UnsentEvent,
    forwarded_key,
)
from audience_sync.destinations.schematic.wire_format import DISPLAY_NAME, with_idempotency_key
from audience_sync.segment.segment_events import SegmentEvent


def render_forwarded(
    waiting: Sequence[ForwardedEvent], mappings: Sequence[Mapping], *, environment: str, most: int
) -> ForwardedProfileEvents:
    """Return the events made of the first of some waiting events, all of one profile; at most `most`, if they fit.

    The bodies of one event stay together, however many they are. Later events wait until these are accepted.
    """
    found = ForwardedProfileEvents([], [], [], [])
    for forwarded in waiting:
        verdict = judge(_event(forwarded), mappings, destination=DISPLAY_NAME)
        events = _events(forwarded, verdict, environment)
        if found.events and len(found.events) + len(events) > most:
            break
        found.events.extend(events)
        mistake = _mistake(verdict)
        if mistake is not None:
            found.dead.append(UnsentEvent(forwarded, mistake))
        elif not verdict.bodies:
            found.unsent.append(UnsentEvent(forwarded, _absence(verdict)))
        elif not events:
            found.over.append(forwarded)
    return found


def _event(forwarded: ForwardedEvent) -> SegmentEvent:
    found = exact_json.loads(forwarded.payload)
    return found if isinstance(found, dict) else {}  # only objects are taken


def _events(forwarded: ForwardedEvent, verdict: Verdict, environment: str) -> list[RenderedEvent]:
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
            events.append(RenderedEvent(profile_key, key, text, None, (), (mapping.name,), origin))
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


def _names_nobody(rejection: BodyRejection) -> bool:
    """Return whether no user is named, which is nobody's mistake: visitors are anonymous until they sign in."""
    missing = rejection.reason is RejectionReason.MISSING_FIELD and rejection.field == "user_keys"
    return missing or rejection.reason is RejectionReason.EMPTY_USER_KEYS
