"""Everything wrong with a mapping is told at once, with its place, before any event comes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from audience_sync.core.model import Json
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.errors import MappingError
from audience_sync.segment.mapping.template import compile_mapping
from audience_sync.segment.mapping.validation import MappingProblem, problems

PATH: Json = {"@path": "$.a"}

REFUSED: list[tuple[Any, tuple[str | int, ...]]] = [
    ({"@nope": 1}, ("@nope",)),
    ({"@liquid": "{{ a }}"}, ("@liquid",)),
    ({"@": 1}, ("@",)),
    ({"@path": "$.a", "@template": "x"}, ()),
    ({"@path": "$.a", "b": 1}, ()),
    ({"b": 1, "@path": "$.a"}, ()),
    ({"@path": 1}, ("@path",)),
    ({"@path": None}, ("@path",)),
    ({"@path": {"a": 1}}, ("@path",)),
    ({"@template": ["x"]}, ("@template",)),
    ({"@literal": {"@nope": 1}}, ("@literal", "@nope")),
    ([{"@nope": 1}], (0, "@nope")),
    ({"@if": "x"}, ("@if",)),
    ({"@if": PATH}, ("@if",)),
    ({"@if": {"then": 1}}, ("@if",)),
    ({"@if": {"exists": None, "blank": 0, "then": 1}}, ("@if",)),
    ({"@if": {"exists": PATH, "then": {"@path": 5}}}, ("@if", "then", "@path")),
    ({"@case": {"value": "a"}}, ("@case",)),
    ({"@case": {"operator": 5, "value": "a"}}, ("@case", "operator")),
    ({"@case": {"operator": "lower", "value": ["a"]}}, ("@case", "value")),
    ({"@replace": {"pattern": "a"}}, ("@replace",)),
    ({"@replace": {"value": "a"}}, ("@replace",)),
    ({"@replace": {"value": "a", "pattern": ""}}, ("@replace", "pattern")),
    ({"@replace": {"value": "a", "pattern": 5}}, ("@replace", "pattern")),
    ({"@replace": {"value": "a", "pattern": "x" * 11}}, ("@replace", "pattern")),
    ({"@replace": {"value": "a", "pattern": "🙂" * 6}}, ("@replace", "pattern")),
    ({"@replace": {"value": "a", "pattern": "a", "replacement": "x" * 11}}, ("@replace", "replacement")),
    ({"@replace": {"value": "a", "pattern": "a", "replacement": None}}, ("@replace", "replacement")),
    ({"@replace": {"value": "a", "pattern": "a", "global": 1}}, ("@replace", "global")),
    ({"@replace": {"value": 5, "pattern": "a"}}, ("@replace", "value")),
    ({"@arrayPath": "$.a"}, ("@arrayPath",)),
    ({"@arrayPath": []}, ("@arrayPath",)),
    ({"@arrayPath": [1]}, ("@arrayPath", 0)),
    ({"@arrayPath": ["$.a", {"@nope": 1}]}, ("@arrayPath", 1, "@nope")),
    ({"@flatten": {"separator": "."}}, ("@flatten",)),
    ({"@flatten": {"value": PATH}}, ("@flatten",)),
    ({"@flatten": {"value": PATH, "separator": ""}}, ("@flatten", "separator")),
    ({"@flatten": {"value": PATH, "separator": 5}}, ("@flatten", "separator")),
    ({"@json": {"value": PATH}}, ("@json",)),
    ({"@json": {"mode": "encode"}}, ("@json",)),
    ({"@json": {"mode": "enc", "value": PATH}}, ("@json", "mode")),
    ({"@json": {"mode": "encode", "value": False}}, ("@json", "value")),
    ({"@merge": {"objects": [PATH]}}, ("@merge",)),
    ({"@merge": {"direction": "left"}}, ("@merge",)),
    ({"@merge": {"direction": "up", "objects": [PATH]}}, ("@merge", "direction")),
    ({"@merge": {"direction": "left", "objects": PATH}}, ("@merge", "objects")),
    ({"@merge": {"direction": "left", "objects": [PATH, 1]}}, ("@merge", "objects", 1)),
    ({"@transform": {"apply": PATH}}, ("@transform",)),
    ({"@transform": {"apply": 1, "mapping": {}}}, ("@transform", "apply")),
    ({"@transform": {"apply": {}, "mapping": [PATH]}}, ("@transform", "mapping")),
    ({"@excludeWhenNull": {"@nope": 1}}, ("@excludeWhenNull", "@nope")),
    (datetime(2026, 1, 1, tzinfo=UTC), ()),
    ({"d": [date(2026, 1, 1)]}, ("d", 0)),
    (float("nan"), ()),
    (float("inf"), ()),
    (2**64, ()),
    (-(2**63) - 1, ()),
    ("\ud800", ()),
    ({"\ud800": 1}, ()),
    ({1: 1}, ()),
    ((1, 2), ()),
]

SUSPECT: list[tuple[Json, tuple[str | int, ...]]] = [
    ("$.userId", ()),
    ("Hello {{name}}", ()),
    ({"k": ["$.userId"]}, ("k", 0)),
    ({"@path": "$"}, ("@path",)),
    ({"@path": "$userId"}, ("@path",)),
    ({"@path": "$.a[b]"}, ("@path",)),
    ({"@path": "$.rows[*].k"}, ("@path",)),
    ({"@path": "$.a['b"}, ("@path",)),
    ({"@path": "$. a"}, ("@path",)),
    ({"@template": "{{$.a}}"}, ("@template",)),
    ({"@template": "{{#if a}}x{{/if}}"}, ("@template",)),
    ({"@template": "{{ a | upper }}"}, ("@template",)),
    ({"@template": "{{a}} {{b"}, ("@template",)),
    ({"@template": "{{a[b]}}"}, ("@template",)),
    ({"@if": {"exists": PATH}}, ("@if",)),
    ({"@if": {"exists": PATH, "blank": PATH, "then": 1}}, ("@if", "blank")),
    ({"@if": {"exists": PATH, "then": True, "else": False}}, ("@if", "else")),
    ({"@if": {"exists": PATH, "then": 1, "otherwise": 2}}, ("@if", "otherwise")),
    ({"@case": {"operator": "title", "value": PATH}}, ("@case", "operator")),
    ({"@case": {"operator": "lower"}}, ("@case",)),
    ({"@replace": {"value": PATH, "pattern": "a", "pattern2": "x" * 11}}, ("@replace", "pattern2")),
    ({"@replace": {"value": PATH, "pattern": "a", "pattern2": ""}}, ("@replace", "pattern2")),
    ({"@replace": {"value": PATH, "pattern": "a", "pattern2": PATH}}, ("@replace", "pattern2")),
    ({"@replace": {"value": PATH, "pattern": "a", "pattern2": "b", "replacement2": 5}}, ("@replace", "replacement2")),
    ({"@replace": {"value": PATH, "pattern": "a", "replacement2": "b"}}, ("@replace", "replacement2")),
    ({"@replace": {"value": PATH, "pattern": "a", "ignoreCase": True}}, ("@replace", "ignoreCase")),
    ({"@arrayPath": ["$.a", {}]}, ("@arrayPath", 1)),
    ({"@arrayPath": ["$.a", PATH, 1]}, ("@arrayPath", 2)),
    ({"@arrayPath": ["$"]}, ("@arrayPath", 0)),
    ({"@flatten": {"value": PATH, "separator": ".", "omitArrays": "yes"}}, ("@flatten", "omitArrays")),
    ({"@merge": {"direction": "left", "objects": []}}, ("@merge", "objects")),
]

FINE: list[Json] = [
    PATH,
    {"@path": ""},
    {"@path": "$.['a.b'][0].c"},
    {"@path": PATH},
    {"@template": "no braces, $5.00 and a lone } or {"},
    {"@template": "{{ a }}{{{b.c[0]}}}{{['is gift']}}"},
    {"@literal": "$.userId"},
    {"@literal": None},
    {"@if": {"blank": PATH, "then": 1, "else": {"@literal": False}}},
    {"@case": {"operator": "upper", "value": PATH}},
    {"@replace": {"value": PATH, "pattern": "0123456789", "pattern2": "b", "ignorecase": True, "global": False}},
    {"@arrayPath": ["$.a", {"x": {"@path": "$.b"}}]},
    {"@flatten": {"value": PATH, "separator": "_", "omitArrays": True}},
    {"@json": {"mode": "decode", "value": PATH}},
    {"@merge": {"direction": "right", "objects": [PATH, {"a": 1}]}},
    {"@transform": {"apply": PATH, "mapping": {"x": PATH}}},
    {"@excludeWhenNull": {"a": PATH}},
    {"@path": "$.a", "_metadata": {"note": 1}},
    {"a": ["text", 1, 1.5, True, None, {}, []], "price": "$.50", "": ""},
]


@pytest.mark.parametrize(("value", "place"), REFUSED, ids=lambda part: ascii(part)[:80])
def test_what_no_event_can_resolve(value: Any, place: tuple[str | int, ...]) -> None:
    """Such a mapping is one problem at its place, and is not compiled."""
    found = problems({"it": value})

    assert [problem.path for problem in found] == [("it", *place)]
    with pytest.raises(MappingError) as raised:
        compile_mapping({"it": value})
    assert str(raised.value).endswith(f": {found[0].sentence}")


@pytest.mark.parametrize(("value", "place"), SUSPECT, ids=lambda part: ascii(part)[:80])
def test_what_cannot_be_meant(value: Json, place: tuple[str | int, ...]) -> None:
    """Such a mapping is a problem as well, though Segment takes it; it compiles."""
    found = [problem.path for problem in problems({"it": value})]

    assert list(dict.fromkeys(found)) == [("it", *place)]
    compile_mapping({"it": value})


@pytest.mark.parametrize("value", FINE, ids=lambda part: ascii(part)[:80])
def test_what_is_right(value: Json) -> None:
    """Nothing is said of a mapping that does what it says."""
    assert problems({"it": value}) == []


def test_the_presets_are_right() -> None:
    """Nothing is said of the mappings that serve without configuration."""
    assert [problems(dict(fields)) for fields in (action.preset_fields for action in ACTIONS.values())] == [[], []]


@pytest.mark.parametrize("mapping", [None, 1, "x", [], True])
def test_a_mapping_is_a_table(mapping: Json) -> None:
    """Anything else is refused as a whole."""
    assert problems(mapping) == [MappingProblem((), "must be a table")]
    with pytest.raises(MappingError, match="the mapping: must be a table"):
        compile_mapping(mapping)


def test_all_problems_at_once() -> None:
    """One look shows everything, in the order of the mapping, each with a sentence."""
    mapping: Json = {
        "user_keys": {"userId": "$.userId"},
        "user_traits": {"@merge": {"direction": "up", "objects": [{"@pth": "$.traits"}, 5]}},
        "company_name": {"@case": {"operator": "title", "value": 1}},
    }

    assert [(path, sentence) for path, sentence, _ in problems(mapping)] == [
        (("user_keys", "userId"), 'is text, not a path; use { "@path" = … } to read a path'),
        (
            ("user_traits", "@merge", "direction"),
            'must be "left" (earlier objects win) or "right" (later objects win)',
        ),
        (("user_traits", "@merge", "objects", 0, "@pth"), "unknown directive; did you mean `@path`?"),
        (
            ("user_traits", "@merge", "objects", 1),
            'must be a table or a directive such as { "@path" = "$.traits.name" }',
        ),
        (("company_name", "@case", "operator"), 'must be "lower" or "upper"'),
        (
            ("company_name", "@case", "value"),
            'must be text or a directive such as { "@path" = "$.traits.name" }',
        ),
    ]


def test_an_unknown_directive_lists_the_known() -> None:
    """Where nothing looks alike, the sentence says what there is."""
    (problem,) = problems({"a": {"@zzz": 1}})

    assert problem.sentence.startswith("unknown directive; use one of @path, @template, @literal, ")


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: {"@literal": v}])
def test_nesting_has_an_end(wrap: Any) -> None:
    """A mapping has at most 50 levels, so that no mapping exhausts the stack."""
    value: Json = 1
    for _ in range(49):
        value = wrap(value)
    fine: Json = {"it": value}
    for _ in range(5000):
        value = wrap(value)

    assert problems(fine) == []
    compile_mapping(fine)
    assert [problem.sentence for problem in problems({"it": value})] == ["is nested more than 50 levels deep"]


def test_the_place_is_spelled() -> None:
    """The error of a mapping that is not compiled names the place as a person would."""
    mapping: Json = {"user_traits": {"@merge": {"direction": "left", "objects": [{}, {"x\ud800": 1}]}}}

    with pytest.raises(MappingError) as raised:
        compile_mapping(mapping)

    assert str(raised.value) == "user_traits.@merge.objects[1]: has a key that is not text"


@pytest.mark.parametrize("secret", ["hunter2", "$hunter2", "{{$hunter2}}", "hunter2" * 3])
def test_no_sentence_repeats_a_value(secret: str) -> None:
    """A value may be a secret, and a problem is printed and logged."""
    mappings: list[Json] = [
        {"@case": {"operator": secret, "value": [secret]}},
        {"@path": f"{secret}[x]"},
        {"@template": secret},
        {"@json": {"mode": secret, "value": 1}},
        {"@replace": {"pattern": secret, "value": 1}},
    ]

    sentences = [problem.sentence for one in mappings for problem in problems({"it": one})]
    assert "hunter2" not in "".join(sentences)
