"""What a request says: from the bytes of a body to the events that arrive, or why it is refused. Nothing else is done.

A request is refused whole only where nothing in it can be told apart. One bad event of a batch (not JSON, not an event,
too long, too deep) is refused alone and counted: client libraries drop a whole batch that is answered with 400. An
event that names nobody, or has no name, is taken: what becomes of it is for the mappings to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.segment.segment_events import (
    MOST_BYTES,
    TOO_DEEP,
    TOO_LONG,
    TYPES,
    Arrival,
    NotAnEvent,
    RefusedEvent,
    arrive,
    check_event,
    read_json,
    refuse,
)
from audience_sync.segment.timestamps import iso
from audience_sync.tracking_api.filling import Receipt, fill, share
from audience_sync.tracking_api.keys import UNKNOWN, knows_body
from audience_sync.tracking_api.refusals import Refusal, invalid
from audience_sync.tracking_api.salvage import BATCH, cut

MOST_IN_BATCH: Final = 500 * 1024
"""The most bytes of the body of a batch (Segment's limit)."""

MOST_TOGETHER: Final = 4 * 1024 * 1024
"""The most bytes of its events together: what a batch says for all of them is written out in each."""

_Part: TypeAlias = "Json | NotAnEvent"
"""An event of a batch as it is parsed, or why it cannot be."""


class EventsRead(NamedTuple):
    """The events of a request that are taken, complete and in their order, and those that are not."""

    arrivals: list[Arrival]
    refused: list[RefusedEvent]

    @property
    def refusal(self) -> Refusal | None:
        """Return the answer where none of the events is taken: it names the first."""
        if self.arrivals or not self.refused:
            return None
        first = self.refused[0]
        return invalid(f"{BATCH}[{first.place}] {first.why.sentence}")


class Endpoint(NamedTuple):
    """One path: the type of its one event, or None for a batch; how long a body is; and if its events are history."""

    type: str | None
    limit: int  # bytes
    historical: bool = False


_BATCH: Final = Endpoint(None, MOST_IN_BATCH)

ENDPOINTS: Final = {
    **{f"/v1/{word}": Endpoint(kind, MOST_BYTES) for kind in TYPES for word in (kind, kind[0])},
    "/v1/batch": _BATCH,
    "/v1/b": _BATCH,
    "/v1/import": _BATCH._replace(historical=True),
}
"""The paths, and the short ones that libraries for browsers and telephones use."""


def read(
    body: bytes, endpoint: Endpoint, *, keys: Sequence[bytes] | None, now: datetime, new_id: Callable[[], str]
) -> EventsRead | Refusal:
    """Return the events that a request brings, or why all of it is refused.

    `keys` are those of which the body must name one; None when the sender is known already. `now` is aware, `new_id`
    makes the messageId of an event that has none.
    """
    found = _document(body, endpoint)
    if isinstance(found, Refusal):
        return found
    document, parts = found
    if keys is not None and not knows_body(document, parts, keys):
        return UNKNOWN
    if not isinstance(document, dict):
        return invalid("the body is JSON, but not an object")
    receipt = Receipt(now, iso(now), document.get("sentAt"), endpoint.historical, new_id)
    if endpoint.type is not None:
        one = _arrival({**document, "type": endpoint.type}, {}, receipt)
        return invalid(f"the event {one.sentence}") if isinstance(one, NotAnEvent) else EventsRead([one], [])
    if parts is None:
        return invalid(f"`{BATCH}` must be a list of events")
    return _events(parts, document, receipt)


def _document(body: bytes, endpoint: Endpoint) -> tuple[Json, Sequence[_Part] | None] | Refusal:
    """Return what a body says, and the events of its batch; None where it has no list of them."""
    read = read_json(body)
    if not isinstance(read, NotAnEvent):
        document, _ = read
        batch = document.get(BATCH) if isinstance(document, dict) else None
        return document, batch if isinstance(batch, list) else None
    pieces = cut(body) if endpoint.type is None else None
    envelope = read if pieces is None else read_json(pieces.envelope)
    if pieces is None or isinstance(envelope, NotAnEvent):
        return invalid(f"the body {read.sentence}")
    return envelope[0], [_part(piece) for piece in pieces.events]


def _part(piece: bytes) -> _Part:
    read = read_json(piece.strip())
    return read if isinstance(read, NotAnEvent) else read[0]


def _events(parts: Iterable[_Part], batch: dict[str, Json], receipt: Receipt) -> EventsRead | Refusal:
    read = EventsRead([], [])
    length = 0
    for place, part in enumerate(parts):
        arrival = part if isinstance(part, NotAnEvent) else _arrival(part, batch, receipt)
        if isinstance(arrival, NotAnEvent):
            read.refused.append(refuse(place, part, arrival))
            continue
        length += len(arrival.payload)
        if length > MOST_TOGETHER:
            return invalid(
                f"the events are longer than {MOST_TOGETHER // 1024**2} MB together, with what the batch says for all"
            )
        read.arrivals.append(arrival)
    return read


def _arrival(found: Json, batch: dict[str, Json], receipt: Receipt) -> Arrival | NotAnEvent:
    event = check_event(found)
    if isinstance(event, NotAnEvent):
        return event
    shared = share(event, batch)
    try:
        filled = fill(shared, receipt)
        text = exact_json.dumps(filled)
        # What we add ourselves does not count.
        if len(text) > MOST_BYTES and len(exact_json.dumps(shared)) > MOST_BYTES:
            return TOO_LONG
    except orjson.JSONEncodeError:
        return TOO_DEEP
    return arrive(filled, text)
