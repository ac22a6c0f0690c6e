"""What Segment's API adds to an event as it arrives: its id, when it was received, and when it really happened.

A sender's clock may be wrong. It says by that clock when it sent the event and when the event happened; so the event
happened as long before it was received.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from audience_sync.core.model import Json
from audience_sync.segment.segment_events import SegmentEvent
from audience_sync.segment.timestamps import iso, to_utc
from audience_sync.tracking_api.keys import FIELD

SHARED: Final = ("context", "integrations")
"""What a batch may say for all its events; an event's own word counts more, key by key."""

_ABSENT: Final = (None, "")


class Receipt(NamedTuple):
    """What is known of a request: when it was received (aware, and as text), when it was sent, and how ids are made.

    The events of a historical one (`/v1/import`) happened when they say.
    """

    received_at: datetime
    received: str
    sent_at: Json
    historical: bool
    new_id: Callable[[], str]


def share(event: SegmentEvent, batch: SegmentEvent) -> dict[str, Json]:
    """Return an event with what its batch says for all, and without the write key."""
    merged = {name: value for name, value in event.items() if name != FIELD}
    for name in SHARED:
        common, own = batch.get(name), merged.get(name)
        if isinstance(common, dict) and (own is None or isinstance(own, dict)):
            merged[name] = {**common, **(own or {})}
    return merged


def fill(event: SegmentEvent, receipt: Receipt) -> dict[str, Json]:
    """Return an event with what it lacks: messageId, receivedAt, sentAt, and the timestamp, corrected."""
    filled = dict(event)
    if filled.get("messageId") in _ABSENT:
        filled["messageId"] = receipt.new_id()
    filled["receivedAt"] = receipt.received
    if filled.get("sentAt") in _ABSENT and receipt.sent_at not in _ABSENT:
        filled["sentAt"] = receipt.sent_at
    given = next((filled[name] for name in ("timestamp", "originalTimestamp") if filled.get(name) not in _ABSENT), None)
    if given is None:
        filled["timestamp"] = receipt.received
        return filled
    corrected = None if receipt.historical else _corrected(given, filled.get("sentAt"), receipt.received_at)
    filled["timestamp"] = given if corrected is None else corrected
    if corrected is not None:
        filled["originalTimestamp"] = given
    return filled


def _corrected(given: Json, sent_at: Json, received_at: datetime) -> str | None:
    """Return when it happened by our clock; None when one of the sender's times is none, or the result is none."""
    happened, sent = to_utc(given), to_utc(sent_at)
    if happened is None or sent is None:
        return None
    try:
        return iso(received_at - (datetime.fromisoformat(sent) - datetime.fromisoformat(happened)))
    except OverflowError:  # before the year 1 or after 9999
        return None
