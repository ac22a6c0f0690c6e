"""What waiting forwarded events come to: every body once and in order, and a reason for each event without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core import exact_json
from audience_sync.destinations.mappings import Mapping, judge, make_mapping, presets
from audience_sync.destinations.rendered_events import (
    BatchContents,
    ForwardedEvent,
    ForwardedProfileEvents,
    RenderedEvent,
)
from audience_sync.destinations.schematic.schematic_actions import ACTIONS, IDENTIFY_USER, TRACK_EVENT
from audience_sync.destinations.schematic.schematic_renderer import SchematicRenderer

FIELDS: dict[str, Any] = {
    "event_name": {"@path": "$.event"},
    "user_keys": {"userId": {"@path": "$.userId"}},
    "timestamp": {"@path": "$.timestamp"},
    "traits": {"message_id": {"@path": "$.messageId"}},
}
TRACK = make_mapping("Track", trigger='type = "track"', action=TRACK_EVENT, fields=FIELDS)
SALE = make_mapping("Sale", trigger='event = "Sale"', action=TRACK_EVENT, fields=FIELDS)
NAMED = make_mapping(
    "Named",
    trigger='type = "page"',
    action=TRACK_EVENT,
    fields={**FIELDS, "event_name": {"@path": "$.properties.title"}},
)
IDENTIFY = make_mapping(
    "Identify",
    trigger='type = "identify"',
    action=IDENTIFY_USER,
    fields={"user_keys": FIELDS["user_keys"], "timestamp": FIELDS["timestamp"], "company_keys": {}},
)
ALL = (TRACK, SALE, NAMED, IDENTIFY)


def event(number: int, kind: str = "track", **facts: Any) -> ForwardedEvent:
    """Return a waiting event of u1; track events are sales or visits in turn."""
    name = {"event": "Sale" if number % 2 else "Visit"} if kind == "track" else {}
    document = {"type": kind, "messageId": f"m{number}", "userId": "u1", "timestamp": "2026-11-23T12:00:00Z"}
    text = orjson.dumps({**document, **name, **facts}).decode()
    return ForwardedEvent("u1", number, f"m{number}", kind, text)


def made(waiting: Sequence[ForwardedEvent], *mappings: Mapping, most: int = 100) -> ForwardedProfileEvents:
    """Return what these mappings, or all of them, make of waiting events."""
    destination = SchematicRenderer(identity="userId", environment="env_1", mappings=mappings or ALL)
    return destination.forwarded(waiting, most=most)


def positions(events: Sequence[RenderedEvent]) -> list[int]:
    """Return which rows events were made of."""
    return [found.origin.row.position for found in events if found.origin is not None]


def test_each_mapping_makes_its_body() -> None:
    """A visit is one body, a sale two, each under a key of its own, and both say that the row is shared."""
    found = made([event(0), event(1)])

    assert positions(found.events) == [0, 1, 1]
    assert len({one.idempotency_key for one in found.events}) == 3
    assert [one.origin and one.origin.shared for one in found.events] == [False, True, True]
    assert [one.mappings for one in found.events] == [("Track",), ("Track",), ("Sale",)]


def test_mappings_that_are_alike_have_keys_of_their_own() -> None:
    """Two mappings of equal fields send two events: that is what they say."""
    twin = make_mapping("Twin", trigger='type = "track"', action=TRACK_EVENT, fields=FIELDS)
    first, second = made([event(0)], TRACK, twin).events

    assert first.idempotency_key != second.idempotency_key


@given(
    st.dictionaries(st.text(max_size=4), st.one_of(st.text(max_size=9), st.integers(-(2**63), 2**64 - 1), st.floats()))
)
def test_the_key_is_the_last_member_of_a_body(traits: dict[str, Any]) -> None:
    """A posted body is the JSON of what its mapping makes, followed by the idempotency key."""
    waiting = event(0, "identify", traits=traits)
    (found,) = made([waiting], *presets(ACTIONS.values())).events
    ((_, body),) = judge(exact_json.loads(waiting.payload), presets(ACTIONS.values()), destination="Schematic").bodies  # type: ignore[arg-type]

    assert found.body.encode() == exact_json.dumps({**body.body, "idempotency_key": found.idempotency_key})


def test_keys_do_not_depend_on_what_goes_beside() -> None:
    """However events are put together after a crash, a body has the key it had."""
    alone = made([event(1)]).events
    among = [found for found in made([event(0), event(1), event(2)]).events if positions([found]) == [1]]

    assert alone == among


def test_why_nothing_is_sent() -> None:
    """Unwanted, kept away and of nobody are counted; what a mapping cannot make is dead, with a sentence."""
    found = made(
        [
            event(1, "screen"),
            event(2, integrations={"All": False}),
            event(3, "identify", userId=None),
            event(4, "page"),
            event(5, "page", properties={"title": "Home"}),
        ]
    )

    assert [(told.event.position, told.reason) for told in found.unsent] == [
        (1, "no_matching_mapping"),
        (2, "filtered_by_integrations_object"),
        (3, "Identify: empty_user_keys"),
    ]
    ((dead, reason),) = found.dead
    assert dead.position == 4
    assert reason.startswith("mapping 'Named': ")
    assert positions(found.events) == [5]


def test_what_schematic_has_is_left_out() -> None:
    """A body that was accepted before is not made again; when all were, the row is over."""
    one, two = made([event(1)]).events
    half = made([event(1)._replace(accepted=frozenset({one.idempotency_key}))])
    whole = made([event(1)._replace(accepted=frozenset({one.idempotency_key, two.idempotency_key}))])

    assert [(left.idempotency_key, left.body) for left in half.events] == [(two.idempotency_key, two.body)]
    assert (half.over, whole.events) == ([], [])
    assert [row.position for row in whole.over] == [1]


@given(st.lists(st.sampled_from(["track", "page", "screen", "identify"]), max_size=30), st.integers(1, 12))
def test_nothing_is_lost_or_doubled_whatever_fits(kinds: list[str], most: int) -> None:
    """Call after call takes each event once, in order, whole, and as many as fit."""
    waiting = [event(number, kind) for number, kind in enumerate(kinds)]
    whole = made(waiting, most=10_000)
    events: list[RenderedEvent] = []
    told: list[int] = []
    rest = waiting
    while rest:
        found = made(rest, most=most)
        taken = {*positions(found.events), *(t.event.position for t in (*found.unsent, *found.dead))}
        assert taken == {row.position for row in rest[: len(taken)]}
        assert len(found.events) <= most or len(set(positions(found.events))) == 1
        events += found.events
        told += [t.event.position for t in (*found.unsent, *found.dead)]
        rest = rest[len(taken) :]

    assert events == whole.events
    assert sorted(told) == sorted(t.event.position for t in (*whole.unsent, *whole.dead))


def test_a_batch_keeps_where_its_events_come_from() -> None:
    """What is read back after a crash settles the same rows."""
    events = made([event(0), event(1)]).events

    assert list(BatchContents.parse(BatchContents.of(events).dump()).events) == events
