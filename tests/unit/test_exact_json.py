"""JSON of applications keeps every digit of its numbers on the way through, and what is ordinary is read by orjson."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.exact_json import LongFraction, NumberTooLarge, dumps, loads
from audience_sync.destinations.mappings import make_mapping, presets
from audience_sync.destinations.rendered_events import ForwardedEvent
from audience_sync.destinations.schematic.schematic_actions import ACTIONS, TRACK_EVENT
from audience_sync.destinations.schematic.schematic_renderer import SchematicRenderer

NUMBERS = [
    "0",
    "-7",
    "9007199254740993",
    "18446744073709551615",
    "-9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "92233720368547758079",
    "123456789012345678901234567890123456789012345678901234567890",
    "1" + "0" * 308,
    "0.30000000000000004",
    "12345678901234567890.5",
    "-12345678901234567890.50",
    "52.520008123456789012",
    "9007199254740993.0",
    "1.7976931348623157081",
    "1234567890123456789e5",
    "1.2345678901234567890E-7",
    "123456789.12345678",
]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("form", ["%s", "[%s,1]", '{"a":{"b":[%s]},"t":"é"}'])
def test_numbers_keep_their_digits(number: str, form: str) -> None:
    """A number is written as it was read, wherever it is; only zeros and the form of an exponent may differ."""
    text = form % number
    again = dumps(loads(text)).decode()

    assert again == text or json.loads(again, parse_float=Decimal) == json.loads(text, parse_float=Decimal)
    assert loads(text.encode()) == loads(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**300), max_value=10**300) | st.integers())
def test_any_number_keeps_its_value(number: Decimal | int) -> None:
    """Whatever number an application sends, the number that is written is the same, not the nearest float."""
    text = f"[{number}]"

    (again,) = json.loads(dumps(loads(text)), parse_float=Decimal, parse_int=Decimal)
    if abs(again) > Decimal("1e-300"):
        assert again == Decimal(number)


@pytest.mark.parametrize("blank", ["", " ", "\n", "\t", "\r\n  "])
@pytest.mark.parametrize("number", ["1234567890123456789012", "-0.12345678901234567890"])
@pytest.mark.parametrize("form", ['{"a":_#_}', '{"a":1,"b":_#}', "[_#_,_#]", "[[],_#]", '["x",_#]', "_#_", "[1,\\n#]"])
def test_a_long_number_is_found_wherever_it_is(form: str, number: str, blank: str) -> None:
    """Behind a bracket, comma or colon, whatever blanks are between, a number keeps its digits."""
    text = form.replace("\\n", "\n").replace("_", blank).replace("#", number)

    written = dumps(loads(text)).decode()

    assert written == "".join(text.split())


def test_long_ids_in_quotes_are_read_by_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id of digits is a text: an event that has one is read as fast as any other."""
    monkeypatch.setattr(json, "loads", None)
    ids = ("1234567890123456789", "00000000000000000000000000009999", "3f2504e01234567890123456", "4000.1234.5678.9010")

    for one in ids:
        text = f'{{"userId":"{one}","list":["{one}"],"timestamp":1764441000123}}'
        assert loads(text) == {"userId": one, "list": [one], "timestamp": 1764441000123}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1e400", ""),
        ('{"a":{"b":[0,-1e309]}}', "a.b[1]"),
        ('{"x":1,"é":1' + "0" * 400 + "}", "é"),
        ('[{"a":{}},{"a":1.5e+999}]', "[1].a"),
    ],
)
def test_a_number_beyond_a_float_is_refused_by_name(text: str, place: str) -> None:
    """No program could read such a number as one; whoever sent it learns which it is."""
    with pytest.raises(NumberTooLarge) as caught:
        loads(text)

    assert str(caught.value) == place


@pytest.mark.parametrize("text", ["", "NaN", "[1e400,]", '{"a":1e400', '"\ud800"', "01234567890123456789"])
def test_what_is_not_json_is_not_read(text: str) -> None:
    """Only what orjson takes for JSON is JSON, whether or not it has long numbers."""
    with pytest.raises(orjson.JSONDecodeError):
        loads(text)


def test_ordinary_values_are_orjsons() -> None:
    """JSON without a long run of digits is read and written by orjson itself; so is a long text of digits."""
    for text in ('{"a":[1,2.5,"é",null,true],"b":{}}', '{"id":"12345678901234567890123"}', '{"t":1700000000123}'):
        assert loads(text) == orjson.loads(text)
        assert dumps(loads(text)).decode() == text
    assert dumps({"b": 1, "a": 2}, option=orjson.OPT_SORT_KEYS) == b'{"a":2,"b":1}'


@pytest.mark.parametrize("value", ["\ud800", [2**70, "\ud800"], {"a": object()}, json.loads("[" * 300 + "]" * 300)])
def test_what_cannot_be_written_is_an_error(value: Any) -> None:
    """Text that is not Unicode, and nesting that no one would read, is said; never a part of it written."""
    with pytest.raises(orjson.JSONEncodeError):
        dumps(value)


def test_nesting_is_limited_alike() -> None:
    """A text that is read can be written again: with long numbers, too, where Python's parser would go deeper."""
    deep = "[" * 300 + "12345678901234567890123" + "]" * 300
    with pytest.raises(RecursionError):
        loads(deep)

    assert dumps(loads(deep[60:-60])).decode() == deep[60:-60]


def forwarded(event: str, *mappings: Any) -> Any:
    """Return the body that is posted for a forwarded event."""
    destination = SchematicRenderer(
        identity="userId", environment="env_1", mappings=tuple(mappings or presets(ACTIONS.values()))
    )
    found = destination.forwarded([ForwardedEvent("u1", 1, "m1", "track", event)], most=100)
    (made,) = found.events
    return json.loads(made.body, parse_float=Decimal)["body"]


HEAD = '"type":"track","event":"e","userId":92233720368547758079,"timestamp":"2026-01-01"'
LONG = '"order":12345678901234567890123,"total":12345678901234567890.5,"list":[18446744073709551616,0.1]'


def test_a_forwarded_event_keeps_its_digits() -> None:
    """Properties, keys and texts made of numbers are what the application sent, also through directives."""
    body = forwarded(f'{{{HEAD},"traits":{{{LONG}}}}}'.replace("track", "identify"))
    mapping = make_mapping(
        "All",
        trigger='type = "track" and properties.order > 12345678901234567890122',
        action=TRACK_EVENT,
        fields={
            "event_name": "e",
            "timestamp": {"@path": "$.timestamp"},
            "user_keys": {"order": {"@path": "$.properties.order"}, "total": {"@path": "$.properties.total"}},
            "traits": {
                "text": {"@template": "{{properties.order}} {{properties.total}}"},
                "json": {"@json": {"mode": "encode", "value": {"@path": "$.properties"}}},
                "back": {"@json": {"mode": "decode", "value": {"@path": "$.properties.written"}}},
            },
        },
    )
    mapped = forwarded(f'{{{HEAD},"properties":{{{LONG},"written":"[12345678901234567890123]"}}}}', mapping)

    assert body["keys"] == {"userId": "92233720368547758079"}
    assert body["traits"] == {
        "order": 12345678901234567890123,
        "total": Decimal("12345678901234567890.5"),
        "list": [18446744073709551616, Decimal("0.1")],
    }
    assert mapped["user"] == {"order": "12345678901234567890123", "total": "12345678901234567890.5"}
    assert mapped["traits"] == {
        "text": "12345678901234567890123 12345678901234567890.5",
        "json": f'{{{LONG},"written":"[12345678901234567890123]"}}',
        "back": [12345678901234567890123],
    }


def test_a_long_unix_time_is_a_time() -> None:
    """A time with more digits than a float is the instant that it was."""
    event = f"{{{HEAD.replace(chr(34) + '2026-01-01' + chr(34), '1772359200.123456789012345')}}}"
    renderer = SchematicRenderer(identity="userId", environment="env_1", mappings=presets(ACTIONS.values()))
    (made,) = renderer.forwarded([ForwardedEvent("u1", 1, "m1", "track", event)], most=100).events

    assert json.loads(made.body)["sent_at"] == "2026-03-01T10:00:00.123Z"
    assert isinstance(loads("1772359200.123456789012345"), LongFraction)
