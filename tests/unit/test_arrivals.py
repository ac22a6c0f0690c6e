"""What makes a Segment event one, and the keys it is kept under."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.segment.segment_events import (
    MOST_BYTES,
    MOST_NAME,
    TYPES,
    Arrival,
    EventFault,
    NotAnEvent,
    ParsedEvent,
    arrive,
    read_event,
)

IDS: st.SearchStrategy[Any] = st.one_of(st.none(), st.integers(), st.text(max_size=400), st.booleans(), st.just([]))


def arrived(**event: Any) -> Arrival:
    """Return a page event with its keys."""
    text = orjson.dumps({"type": "page", **event})
    return arrive(orjson.loads(text), text)


@pytest.mark.parametrize("kind", TYPES)
def test_known_types(kind: str) -> None:
    """The six types of Segment are events."""
    text = orjson.dumps({"type": kind})

    assert read_event(text) == ParsedEvent({"type": kind}, text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", EventFault.NOT_JSON),
        (b"{", EventFault.NOT_JSON),
        (b"\xff", EventFault.NOT_UTF8),
        (b"[]", EventFault.NOT_AN_OBJECT),
        (b"{}", EventFault.NO_TYPE),
        (b'{"type":""}', EventFault.NO_TYPE),
        (b'{"type":"Track"}', EventFault.UNKNOWN_TYPE),
        (b'{"type":7}', EventFault.UNKNOWN_TYPE),
        (b'{"type":"page","n":[1e309]}', EventFault.NUMBER_TOO_LARGE),
        (b'{"type":"page","n":1' + b"0" * 400 + b"}", EventFault.NUMBER_TOO_LARGE),
        (b"[" * 2000 + b"]" * 2000, EventFault.TOO_DEEP),
        (b'{"type":"page","n":12345678901234567890123,"p":' + b"[" * 400 + b"]" * 400 + b"}", EventFault.TOO_DEEP),
        (b" " * (MOST_BYTES + 1), EventFault.TOO_LONG),
    ],
)
def test_what_is_not_an_event(text: bytes, fault: EventFault) -> None:
    """Everything else is told apart by what is wrong with it."""
    found = read_event(text)

    assert isinstance(found, NotAnEvent)
    assert found.fault is fault


@pytest.mark.parametrize(
    ("ids", "key"),
    [
        ({"userId": "u", "anonymousId": "a", "groupId": "g"}, "u"),
        ({"userId": None, "anonymousId": "a", "groupId": "g"}, "a"),
        ({"userId": "", "groupId": "g"}, "g"),
        ({"userId": 42}, "42"),
        ({"userId": 42.0}, "42"),
        ({"userId": {"id": 1}, "anonymousId": "a"}, "a"),
        ({"userId": True, "groupId": 0}, "0"),
        ({"messageId": "m"}, "m"),
    ],
)
def test_the_first_id_orders(ids: dict[str, Any], key: str) -> None:
    """The profile key is the userId, else the anonymousId, else the groupId, else the event's own messageId."""
    found = arrived(**ids)

    assert found.profile_key == key


def test_an_event_without_a_messageid_is_known_by_its_text() -> None:
    """The same line again is the same event; another is another."""
    one, same, other = arrived(name="Home"), arrived(name="Home"), arrived(name="Away")

    assert one.message_id == same.message_id
    assert one.message_id.startswith("made-")
    assert one.message_id != other.message_id


def test_half_a_character_is_replaced_in_the_text() -> None:
    """The payload of an event with half an emoji is JSON that every program can read."""
    found = read_event(rb'{"type":"page", "userId":"\ud83d", "n":"\\ud83d"}')

    assert isinstance(found, ParsedEvent)
    assert found.text == rb'{"type":"page", "userId":"\ufffd", "n":"\\ud83d"}'
    assert found.event == orjson.loads(found.text)


def test_long_ids_keep_their_digits() -> None:
    """Two ids that are one float are two people, whole numbers and fractions alike."""
    for one, other in (
        ("92233720368547758079", "92233720368547758080"),
        ("12345678901234567890.5", "12345678901234567890.6"),
    ):
        keys = set()
        for text in (one, other):
            found = read_event(f'{{"type":"page","userId":{text},"messageId":{text}}}'.encode())
            assert isinstance(found, ParsedEvent)
            arrival = arrive(*found)
            assert arrival.profile_key == arrival.message_id
            keys.add(arrival.profile_key)
        assert len(keys) == 2
        assert ("." in one) or keys == {one, other}


@given(IDS, IDS, IDS)
def test_keys_are_fit_for_any_database(user: Any, anonymous: Any, message: Any) -> None:
    """Whatever ids an event has, its keys are short, printable text; equal ids have equal keys."""
    event = {"type": "track", "userId": user, "anonymousId": anonymous, "messageId": message}
    text = b'{"type":"track"}'
    found = arrive(event, text)

    for key in (found.profile_key, found.message_id):
        assert key
        assert len(key) <= 255
        assert not any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in key)
    assert arrive(dict(event), text) == found


def test_names_are_kept_short_and_without_nul() -> None:
    """The name of a track or page event stands beside it for people to see; a NUL would not fit into Postgres."""
    assert arrived(name="a\0b").name == "a b"
    assert arrived(event="x" * 999).name == "x" * MOST_NAME
    assert arrived(event=7).name is None


def test_the_payload_is_the_text_as_it_came() -> None:
    """Nothing of an event is lost or written anew: spaces, order and escapes stay."""
    text = b'{ "type":"page",  "a":1.0, "b":"\\u00e9" }'

    assert arrive(orjson.loads(text), text).payload == text.decode()
