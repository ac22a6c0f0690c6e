"""A mapping resolves for an event as it would at Segment, touches neither, and costs next to nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.exact_json import LongFraction
from audience_sync.core.model import Json
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.errors import MappingError
from audience_sync.segment.mapping.template import MISSING, compile_mapping, reads

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "mappings.json").read_text())
EVENT: dict[str, Json] = {
    "userId": "u1",
    "text": "Hello",
    "half": 1.5,
    "yes": True,
    "no": False,
    "null": None,
    "empty": "",
    "zero": 0,
    "a.b": "dotted",
    "": {"": "nameless"},
    "list": [1, None, "x", [2, 3], {"k": 1}],
    "rows": [{"k": 1}, {"k": None}, {}],
    "deep": {"a": 1, "b": {"c": [1, {"d": 2}]}},
}
NAMES = st.sampled_from(["a", "b", "k", "userId", "list", "deep", "", "@x", "a.b"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)
EVENTS = st.dictionaries(NAMES, VALUES, max_size=5)
PATHS = st.sampled_from(["$.", "", "$.a", "userId", "$.list[0]", "$.deep.b", "$.a.k", "$.k[0].a", "$.['a.b']", "$"])


def _one_of_each(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return directives and objects around values."""
    text = st.sampled_from(["{{a}} {{deep}}", "plain", "{{list}}"])
    return st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
        st.lists(inner, max_size=3),
        st.builds(lambda v: {"@path": v}, PATHS | inner),
        st.builds(lambda v: {"@template": v}, text | inner),
        st.builds(lambda v: {"@literal": v}, inner),
        st.builds(lambda n, c, t, e: {"@if": {n: c, "then": t, "else": e}}, *_if_parts(inner)),
        st.builds(
            lambda o, v: {"@case": {"operator": o, "value": v}}, st.sampled_from(["lower", "upper", "title"]), inner
        ),
        st.builds(lambda v: {"@replace": {"pattern": "a", "replacement": "$&$`", "value": v}}, inner),
        st.builds(lambda p, s: {"@arrayPath": [p, s]}, PATHS | inner, inner),
        st.builds(lambda v, o: {"@flatten": {"separator": ".", "omitArrays": o, "value": v}}, inner, st.booleans()),
        st.builds(lambda m, v: {"@json": {"mode": m, "value": v}}, st.sampled_from(["encode", "decode"]), inner),
        st.builds(_merge, st.sampled_from(["left", "right"]), st.lists(inner, max_size=3)),
        st.builds(lambda a, m: {"@transform": {"apply": a, "mapping": m}}, inner, inner),
        st.builds(lambda v: {"@excludeWhenNull": v}, inner),
    )


def _if_parts(inner: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Any]]:
    return [st.sampled_from(["exists", "blank"]), inner, inner, inner]


def _merge(direction: str, objects: list[Json]) -> Json:
    return {"@merge": {"direction": direction, "objects": objects}}


MAPPINGS = st.dictionaries(
    st.sampled_from(["x", "y"]),
    st.recursive(SCALARS | st.builds(lambda v: {"@path": v}, PATHS), _one_of_each, max_leaves=10),
    max_size=2,
)


def resolved(value: Json, event: Json = EVENT) -> Any:
    """Return what a value of a mapping resolves to; `MISSING` if to nothing."""
    outcome = compile_mapping({"it": value})(event)
    assert isinstance(outcome, dict)
    return outcome.get("it", MISSING)


def answer(mapping: Json, event: Json) -> dict[str, Any]:
    """Return what a mapping resolves to as the vectors tell it."""
    try:
        return {"ok": compile_mapping(mapping)(event)}
    except MappingError:
        return {"error": ""}


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: json.dumps(case["mapping"])[:90])
def test_as_segment_answers(case: dict[str, Any]) -> None:
    """Each mapping of the vectors gives for each event what Segment gives, the keys in the same order."""
    answers = [answer(case["mapping"], event) for event in VECTORS["events"]]
    expected = [{"error": ""} if "error" in result else result for result in case["results"]]

    assert json.dumps(expected) == json.dumps(answers)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.", EVENT),
        ("", EVENT),
        ("$", MISSING),
        ("text", "Hello"),
        ("$..deep..a.", 1),
        ("$.deep['b'].c[1].d", 2),
        ('$.deep["b"].c.1["d"]', 2),
        ("$.['a.b']", "dotted"),
        ("$.a.b", MISSING),
        ("$.[''].['']", "nameless"),
        ("$.list[1]", None),
        ("$.list[01]", MISSING),
        ("$.list[-1]", MISSING),
        ("$.list[9]", MISSING),
        ("$.list[99999999999999999999]", MISSING),
        ("$.list.k", MISSING),
        ("$.list.length", 5),
        ("$.text.length", 5),
        ("$.text[1]", "e"),
        ("$.null.x.y", None),
        ("$.no.x", False),
        ("$.half.x", MISSING),
        ("$.text.x", MISSING),
        ("$.deep[b]", MISSING),
        ("$.rows[*].k", MISSING),
    ],
)
def test_paths(path: str, expected: object) -> None:
    """A path reads keys, places and quoted keys; what is not there is nothing, and below null is null."""
    assert expected == resolved({"@path": path})


def test_texts_are_counted_in_utf_16() -> None:
    """A letter beyond the first plane counts twice, and half of it is never given to anybody."""
    event: Json = {"t": "a🙂b"}

    assert resolved({"@path": "$.t.length"}, event) == 4
    assert [resolved({"@path": f"$.t[{n}]"}, event) for n in range(5)] == ["a", MISSING, MISSING, "b", MISSING]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ text }}!{{{text}}}", "Hello!Hello"),
        ("{{half}} {{yes}} {{no}} {{zero}}", "1.5 true false 0"),
        ("[{{null}}{{nope}}{{empty}}]", "[]"),
        ("{{list}} {{deep}}", "1,,x,2,3,[object Object] [object Object]"),
        ("{{deep.b.c[1].d}} {{['a.b']}}", "2 dotted"),
        ("{{}} {{text} {{ {text} }}", "{{}} {{text} {{ {text} }}"),
        ("{{{{text}}}}", "}"),
        ("{{$.text}}", ""),
        ("", ""),
    ],
)
def test_templates(template: str, expected: str) -> None:
    """Braces hold paths without `$.`, values print as in JavaScript, and what cannot be read stays as it is."""
    assert expected == resolved({"@template": template})


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (120.5, "120.5"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.25e-9, "1.25e-9"),
        (1e21, "1e+21"),
        (123456789012345680000.0, "123456789012345680000"),
        (9007199254740993, "9007199254740993"),
        (-(10**21), "-1000000000000000000000"),
        (12345678901234567890123, "12345678901234567890123"),
        (LongFraction("12345678901234567890.50"), "12345678901234567890.50"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers_print_as_in_javascript(number: float, text: str) -> None:
    """A number reads the same in a template, in a replacement and in JSON, and keeps all its digits."""
    event: Json = {"n": number}

    assert resolved({"@template": "{{n}}"}, event) == text
    assert resolved({"@replace": {"pattern": "x", "value": {"@path": "$.n"}}}, event) == text
    encoded = resolved({"@json": {"mode": "encode", "value": [{"@path": "$.n"}]}}, event)
    assert encoded == ("[null]" if "N" in text or "I" in text else f"[{text}]")


@pytest.mark.parametrize("name", ["null", "empty", "zero", "no", "nope"])
def test_blank_values(name: str) -> None:
    """Null, nothing, "", 0 and false are blank; the last three exist all the same."""
    value: Json = {"@path": f"$.{name}"}
    exists = resolved({"@if": {"exists": value, "then": 1, "else": 2}})

    assert resolved({"@if": {"blank": value, "then": 1, "else": 2}}) == 2
    assert exists == (2 if name in ("null", "nope") else 1)


@pytest.mark.parametrize(("value", "blank"), [([], True), ([[None]], True), ([0], False), ({}, False), (" ", False)])
def test_blank_lists(value: Json, blank: bool) -> None:
    """A list is blank when nothing of it would be printed, an object never."""
    mapping: Json = {"@if": {"blank": {"@path": "$.v"}, "then": "filled", "else": "blank"}}

    assert resolved(mapping, {"v": value}) == ("blank" if blank else "filled")


def test_a_falsy_else_is_nothing() -> None:
    """Segment leaves out an `else` of false, unless it stands in @literal; `then` is always kept."""
    condition: Json = {"@path": "$.nope"}

    assert resolved({"@if": {"exists": condition, "then": 1, "else": False}}) is MISSING
    assert resolved({"@if": {"exists": condition, "then": 1, "else": {"@literal": False}}}) is False
    assert resolved({"@if": {"exists": {"@path": "$.text"}, "then": False}}) is False


@pytest.mark.parametrize(
    ("options", "value", "expected"),
    [
        ({"pattern": "o", "replacement": "0"}, "fOo", "fO0"),
        ({"pattern": "o", "replacement": "0", "ignorecase": True}, "fOo", "f00"),
        ({"pattern": "o", "replacement": "0", "global": False}, "foo", "f0o"),
        ({"pattern": "o", "replacement": "x", "pattern2": "x", "replacement2": "y"}, "foo", "fyy"),
        ({"pattern": "o", "pattern2": "f"}, "fog", "g"),
        ({"pattern": "o", "pattern2": ""}, "fog", "fg"),
        ({"pattern": "(.*)+[a"}, "x(.*)+[ay", "xy"),
        ({"pattern": "o", "replacement": "$&$$"}, "fo", "fo$"),
        ({"pattern": "o", "replacement": "$`|$'|"}, "foo", "ff|o|fo||"),
        ({"pattern": "k", "replacement": "x", "ignorecase": True}, "kK\u212a", "xx\u212a"),
        ({"pattern": "σ", "replacement": "x", "ignorecase": True}, "Σςσ", "xxx"),
        ({"pattern": "ß", "replacement": "x", "ignorecase": True}, "ẞß", "ẞx"),
        ({"pattern": "a", "replacement": "x"}, ["a"], ""),
        ({"pattern": "a", "replacement": "x"}, None, ""),
    ],
)
def test_replace(options: dict[str, Json], value: Json, expected: str) -> None:
    """Patterns are literal, one after the other; `$` in a replacement and case are JavaScript's; lists are ""."""
    mapping: Json = {"@replace": {**options, "value": {"@path": "$.v"}}}

    assert expected == resolved(mapping, {"v": value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (' {"a": [1, null]} ', {"a": [1, None]}),
        ("null", None),
        ("[1,]", "[1,]"),
        ("NaN", "NaN"),
        ("1e400", "1e400"),
        ("12345678901234567890", 12345678901234567890),
        ('"\\ud800"', '"\\ud800"'),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_decoding(text: str, expected: Json) -> None:
    """JSON text becomes its value; any other text, and what could not be sent on, stays text."""
    assert expected == resolved({"@json": {"mode": "decode", "value": {"@path": "$.t"}}}, {"t": text})


def test_encoding() -> None:
    """JSON text has no spaces, keeps every letter, and null where a list has nothing."""
    event: Json = {"v": {"ä\u2028": 'q"\n', "h": "\ud800", "l": [1.0, True, {}]}}
    mapping: Json = {"@json": {"mode": "encode", "value": {"@path": "$.v"}}}

    assert resolved(mapping, event) == '{"ä\u2028":"q\\"\\n","h":"\\ud800","l":[1,true,{}]}'
    assert resolved({"@json": {"mode": "encode", "value": [{"@path": "$.nope"}]}}) == "[null]"


def test_merges_keep_segments_order() -> None:
    """The objects that win are joined last, so their keys come last, as in a body that Segment makes."""
    objects: Json = [{"a": 1, "b": 2}, {"c": 3, "a": 9}]

    right = resolved({"@merge": {"direction": "right", "objects": objects}})
    left = resolved({"@merge": {"direction": "left", "objects": objects}})
    assert list(right.items()) == [("a", 9), ("b", 2), ("c", 3)]
    assert list(left.items()) == [("c", 3), ("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"@path": "$.nope"}},
        {"@literal": {"a": {"@path": "$.nope"}}},
        {"@excludeWhenNull": {"a": None}},
        {"@if": {"exists": {"@path": "$.text"}, "then": {"a": {"@path": "$.nope"}}}},
        {"@merge": {"direction": "left", "objects": [{"a": {"@path": "$.nope"}}]}},
        {"@flatten": {"separator": ".", "value": {"a": {"@path": "$.nope"}}}},
        {"@transform": {"apply": {}, "mapping": {"a": {"@path": "$.nope"}}}},
    ],
)
def test_a_key_without_a_value_wins_a_merge(value: Json) -> None:
    """As at Segment, a key that resolves to nothing takes away what the other object has."""
    assert resolved({"@merge": {"direction": "left", "objects": [value, {"a": 2, "b": 3}]}}) == {"b": 3}
    assert "a" not in (resolved(value) or {})


def test_merging_what_is_no_object() -> None:
    """Lists and texts are merged as objects of their parts; numbers, null and nothing add nothing."""
    objects: list[Json] = [{"@path": f"$.{name}"} for name in ("half", "null", "nope", "yes")]

    assert resolved({"@merge": {"direction": "right", "objects": [*objects, {"@path": "$.list[3]"}]}}) == {
        "0": 2,
        "1": 3,
    }
    assert resolved({"@merge": {"direction": "right", "objects": [{"@literal": "ab"}]}}) == {"0": "a", "1": "b"}


@pytest.mark.parametrize(
    ("value", "omit", "expected"),
    [
        ({"a": {"b": None, "c": {}, "d": []}}, False, {"a.b": None}),
        ({"a": {"b": [1, [2]]}}, True, {"a.b": [1, [2]]}),
        ([1, {"x": 2}], False, {"0": 1, "1.x": 2}),
        ([1], True, {"": [1]}),
        ("x", False, {"": "x"}),
        ({"x": [{"@path": "$.nope"}, 1]}, False, {"x.1": 1}),
        ({"x": [{"@path": "$.nope"}, 1]}, True, {"x": [None, 1]}),
        ({"@path": "$.nope"}, False, {}),
    ],
)
def test_flatten(value: Json, omit: bool, expected: Json) -> None:
    """Scalars come under their whole paths; empty objects and lists vanish; whole lists are kept if asked for."""
    assert expected == resolved({"@flatten": {"separator": ".", "omitArrays": omit, "value": value}})


def test_array_paths() -> None:
    """Each item is resolved by itself; one object is a list of one, and what has no items is passed on."""
    shape: Json = {"k": {"@path": "$.k"}, "one": 1}

    assert resolved({"@arrayPath": ["$.rows", shape]}) == [{"k": 1, "one": 1}, {"k": None, "one": 1}, {"one": 1}]
    assert resolved({"@arrayPath": ["$.rows", {"@path": "$.k"}]}) == [1, None, None]
    assert resolved({"@arrayPath": ["$.deep", {"@path": "$.a"}]}) == [1]
    assert resolved({"@arrayPath": [{"@literal": {"k": {"@path": "$.nope"}}}, {"all": {"@path": "$."}}]}) == [
        {"all": {}}
    ]
    assert resolved({"@arrayPath": [{"@arrayPath": ["$.rows", {"@path": "$.k"}]}, shape]})[2] == {"one": 1}
    assert resolved({"@arrayPath": ["$.text", shape]}) == "Hello"
    assert resolved({"@arrayPath": [{"@path": "$.list"}]}) == EVENT["list"]


def test_nulls_are_excluded_from_objects_alone() -> None:
    """A null in a list has its place; one in an object, however deep, is left out, and the event keeps it."""
    value: Json = {"a": None, "b": {"c": None, "d": [None, {"e": None}]}}
    event: Json = {"v": copy.deepcopy(value)}

    assert resolved({"@excludeWhenNull": {"@path": "$.v"}}, event) == {"b": {"d": [None, {"e": None}]}}
    assert resolved({"@excludeWhenNull": {"@path": "$.null"}}) is MISSING
    assert event == {"v": value}


def test_transforms_see_what_was_applied() -> None:
    """The second mapping looks at the outcome of the first and at nothing else."""
    apply: Json = {"x": {"@path": "$.text"}, "gone": {"@path": "$.nope"}}

    assert resolved({"@transform": {"apply": apply, "mapping": {"@path": "$."}}}) == {"x": "Hello"}
    assert resolved({"@transform": {"apply": apply, "mapping": {"@path": "$.userId"}}}) is MISSING


def test_metadata_stands_beside_a_directive() -> None:
    """The notes of Segment's editor are no key of a directive, and an ordinary key elsewhere."""
    assert resolved({"@path": "$.text", "_metadata": {"label": "x"}}) == "Hello"
    assert resolved({"_metadata": {"label": "x"}}) == {"_metadata": {"label": "x"}}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"@path": {"@path": "$.half"}}, "it.@path"),
        ({"@template": {"@path": "$.nope"}}, "it.@template"),
        ({"@case": {"operator": "title", "value": {"@path": "$.text"}}}, "it.@case.operator"),
        ({"@replace": {"pattern": "a", "pattern2": "x" * 11, "value": {"@path": "$.text"}}}, "it.@replace"),
        (
            {"@transform": {"apply": {"@path": "$.text"}, "mapping": {"@transform": {"apply": {}, "mapping": {}}}}},
            "it.",
        ),
        ([{"a": {"@path": {"@path": "$.deep"}}}], "it[0].a.@path"),
    ],
)
def test_errors_name_their_place(value: Json, place: str) -> None:
    """What fails for an event says where in the mapping, and repeats nothing of the event."""
    with pytest.raises(MappingError) as raised:
        resolved(value)

    assert str(raised.value).startswith(place)
    assert "Hello" not in str(raised.value)


@pytest.mark.parametrize("event", [None, 1, "x", [], [{}], True])
def test_an_event_is_an_object(event: Json) -> None:
    """Anything else is refused, whatever the mapping reads."""
    with pytest.raises(MappingError, match="the event is not an object"):
        compile_mapping({"a": 1})(event)


def test_a_mapping_can_be_one_directive() -> None:
    """The whole mapping may be a directive, which comes to anything or nothing."""
    assert compile_mapping({"@path": "$.deep.a"})(EVENT) == 1
    assert compile_mapping({"@path": "$.nope"})(EVENT) is MISSING


def test_constants_do_not_leak() -> None:
    """What somebody does to one outcome, or to the mapping afterwards, is not seen in the next."""
    mapping: dict[str, Any] = {
        "plain": {"a": 1},
        "nested": {"l": [1, {"b": 2}]},
        "decoded": {"@json": {"mode": "decode", "value": '{"x": [1]}'}},
        "merged": {"@merge": {"direction": "right", "objects": [{"a": 1}]}},
    }
    resolve = compile_mapping(mapping)
    first: Any = resolve({})
    expected = copy.deepcopy(first)
    first["plain"]["a"] = first["nested"]["l"][1]["b"] = first["decoded"]["x"] = first["merged"]["a"] = "changed"
    mapping["plain"]["a"] = mapping["nested"]["l"][1]["b"] = "changed"

    assert expected == resolve({})


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"a": "$.userId", "b": {"@literal": 1}}, set()),
        ({"a": {"@path": "$.traits.x"}, "b": [{"@path": "$.list[0]"}]}, {("traits", "x"), ("list", "0")}),
        ({"a": {"@path": ""}}, {()}),
        ({"a": {"@path": {"@path": "$.name"}}}, {()}),
        ({"a": {"@template": "{{ traits.x }}-{{['a.b']}}"}}, {("traits", "x"), ("a.b",)}),
        ({"a": {"@if": {"exists": {"@path": "$.a"}, "then": {"@path": "$.b"}}}}, {("a",), ("b",)}),
        ({"a": {"@arrayPath": ["$.rows", {"k": {"@path": "$.k"}}]}}, {("rows",)}),
        ({"a": {"@arrayPath": [{"@merge": {"objects": [{"@path": "$.a"}]}}, {"@path": "$.k"}]}}, {("a",)}),
        ({"a": {"@transform": {"apply": {"x": {"@path": "$.b"}}, "mapping": {"@path": "$.x"}}}}, {("b",)}),
        (
            {"a": {"@merge": {"direction": "left", "objects": [{"@path": "$.a"}, {"k": {"@path": "$.b"}}]}}},
            {("a",), ("b",)},
        ),
    ],
)
def test_what_is_read(mapping: Json, expected: set[tuple[str, ...]]) -> None:
    """The paths that a mapping can look at are known beforehand."""
    assert expected == reads(mapping)


@given(MAPPINGS, EVENTS)
def test_what_is_not_read_does_not_matter(mapping: Any, event: dict[str, Json]) -> None:
    """An event without the members that no path names resolves to the same."""
    paths = reads(mapping)
    named = {path[0] for path in paths if path}
    rest = event if () in paths else {key: value for key, value in event.items() if key in named}

    assert answer(mapping, event) == answer(mapping, rest)


@given(MAPPINGS, EVENTS)
def test_nothing_is_touched(mapping: Any, event: Any) -> None:
    """Resolving changes neither the mapping nor the event, and comes to the same again."""
    before = copy.deepcopy((mapping, event))
    first = answer(mapping, event)

    assert first == answer(mapping, event)
    assert before == (mapping, event)


@given(MAPPINGS, EVENTS)
def test_json_round_trips(mapping: Any, event: Any) -> None:
    """A mapping and an event that were written down and read again come to the same, and the outcome is JSON."""
    outcome = answer(mapping, event)

    assert outcome == answer(*json.loads(json.dumps([mapping, event])))
    assert outcome == json.loads(json.dumps(outcome))


def test_the_presets_resolve() -> None:
    """The mappings that serve without configuration resolve for an event with nothing in it."""
    resolve: list[Callable[[Json], object]] = [
        compile_mapping(dict(action.preset_fields)) for action in ACTIONS.values()
    ]

    assert [one({}) for one in resolve] == [
        {"user_keys": {}, "company_keys": {}},
        {"user_keys": {}, "traits": {}},
    ]
