"""What a request says: from the bytes of a body to the events that arrive, or why it is refused. Nothing else is done.

Refused is what Segment refuses: no JSON, no event, too long. An event that names nobody, or has no name, is taken: what
becomes of it is for the mappings to say, as with events from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import orjson

from audience_sync.core.arrivals import MOST_BYTES, TOO_LONG, TYPES, Arrival, Fault, NotAnEvent, arrive, check_event
from audience_sync.core.model import Json
from audience_sync.ingest.filling import Receipt, fill, share
from audience_sync.ingest.keys import UNKNOWN, knows_body
from audience_sync.ingest.refusals import Refusal, invalid

MOST_IN_BATCH: Final = 500 * 1024
"""So long the body of a batch is at most, in bytes (Segment's limit)."""

MOST_TOGETHER: Final = 4 * 1024 * 1024
"""So long its events are at most together, in bytes: what a batch says for all of them is written out in each."""


_TOO_DEEP: Final = NotAnEvent(Fault.NOT_JSON, "is nested too deeply")


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
) -> list[Arrival] | Refusal:
    """Return the events that a request brings, complete and in their order, or why none of them is taken.

    `keys` are those of which the body must name one; None when the sender is known already. `now` is aware, `new_id`
    makes the messageId of an event that has none.
    """
    found = _parse(body)
    if isinstance(found, Refusal):
        return found
    if keys is not None and not knows_body(found, keys):
        return UNKNOWN
    if not isinstance(found, dict):
        return invalid("the body is JSON, but no object")
    receipt = Receipt(now, found.get("sentAt"), endpoint.historical, new_id)
    if endpoint.type is not None:
        arrival = _arrival({**found, "type": endpoint.type}, {}, receipt)
        return invalid(f"the event {arrival.sentence}") if isinstance(arrival, NotAnEvent) else [arrival]
    batch = found.get("batch")
    if not isinstance(batch, list):
        return invalid("`batch` must be a list of events")
    return _all_or_none(_arrival(event, found, receipt) for event in batch)


def _parse(body: bytes) -> Json | Refusal:
    try:
        found: Json = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return invalid(f"the body is no JSON: {error.msg}, line {error.lineno}, column {error.colno}")
    return found


def _all_or_none(arrivals: Iterator[Arrival | NotAnEvent]) -> list[Arrival] | Refusal:
    taken, length = [], 0
    for index, arrival in enumerate(arrivals):
        if isinstance(arrival, NotAnEvent):
            return invalid(f"batch[{index}] {arrival.sentence}")
        length += len(arrival.payload)
        if length > MOST_TOGETHER:
            return invalid(
                f"the events are longer than {MOST_TOGETHER // 1024**2} MB together, with what the batch says for all"
            )
        taken.append(arrival)
    return taken


def _arrival(found: Json, batch: dict[str, Json], receipt: Receipt) -> Arrival | NotAnEvent:
    event = check_event(found)
    if isinstance(event, NotAnEvent):
        return event
    shared = share(event, batch)
    try:
        filled = fill(shared, receipt)
        text = orjson.dumps(filled)
        # What we add ourselves does not count.
        if len(text) > MOST_BYTES and len(orjson.dumps(shared)) > MOST_BYTES:
            return TOO_LONG
    except orjson.JSONEncodeError:
        return _TOO_DEEP
    return arrive(filled, text)
