"""Events of one profile: those of its open changes, or of its forwarded events, with everything that makes none."""

from __future__ import annotations

from typing import NamedTuple

from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.rendered_events import ForwardedEvent, RenderedEvent

NOT_MAPPED = "no enabled mapping makes an event from it"


class RejectedChange(NamedTuple):
    """A change that cannot be sent as the mappings are, and why."""

    change: OpenChange
    reason: str


class ProfileEvents(NamedTuple):
    """The events of the open changes of one profile, and the changes that cannot be sent."""

    events: list[RenderedEvent]
    rejected: list[RejectedChange]


class UnsentEvent(NamedTuple):
    """A forwarded event, and why nothing, or nothing more, is sent of it."""

    event: ForwardedEvent
    reason: str


class ForwardedProfileEvents(NamedTuple):
    """The events of waiting forwarded events of one profile, and those that make none."""

    events: list[RenderedEvent]
    unsent: list[UnsentEvent]  # counted and gone: the mappings, or the event itself, ask for nothing
    dead: list[UnsentEvent]  # wanted by a mapping that cannot make its body; others may have made theirs
    over: list[ForwardedEvent]  # the destination has every body already
