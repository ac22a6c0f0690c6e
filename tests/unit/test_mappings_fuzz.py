"""No mapping and no event, however odd, brings the program down or holds it up: there is an answer, or one error."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest

from audience_sync.core.model import Json
from audience_sync.errors import MappingError
from audience_sync.segment.mapping.template import MISSING, Missing, compile_mapping, reads
from audience_sync.segment.mapping.validation import RULES, problems
from tests.profile import amount

CASES = amount("AUDIENCE_SYNC_FUZZ_CASES", small=300, large=3000)
SECONDS = 20  # far more than any single mapping may need on a busy machine

WORDS = [
    "a",
    "b",
    "traits",
    "userId",
    "",
    "@path",
    "@x",
    "a.b",
    "0",
    "length",
    "_metadata",
    "é🙂",
    "\ud800",
    "__proto__",
]
TEXTS = [
    "",
    "x",
    "$.",
    "$.a",
    "$.traits.b[0]",
    "a.b",
    "{{a}}",
    "{{{b}}} {{",
    "}}",
    "[[",
    "['",
    "$",
    "{",
    '{"a":[1e999]}',
    "\udfff",
    "ſK",
]
NUMBERS = [0, -0.0, 1.5, 1e-7, 1e308, 2**63, 10**400, -(10**25), 7]
OPTIONS = [
    "exists", "blank", "then", "else", "operator", "value", "pattern", "replacement", "pattern2", "replacement2",
    "ignorecase", "global", "separator", "omitArrays", "mode", "objects", "direction", "apply", "mapping",
]  # fmt: skip
NO_JSON: list[Any] = [float("nan"), float("-inf"), datetime(2026, 1, 1, tzinfo=UTC), (1,), {1}, b"x", object, {1: 2}]


def scalar(rng: random.Random) -> Json:
    """Return a scalar, often an odd one."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(TEXTS)
    return rng.choice(NUMBERS) if kind < 0.8 else rng.choice([None, True, False])


def any_value(rng: random.Random, depth: int) -> Any:
    """Return a value of an event; one in hundred is very deep."""
    kind = rng.random()
    if kind < 0.01:
        value: Any = scalar(rng)
        for _ in range(rng.choice([60, 300, 3000])):
            value = [value] if rng.random() < 0.5 else {rng.choice(WORDS): value}
        return value
    if depth <= 0 or kind < 0.4:
        return scalar(rng)
    if kind < 0.6:
        return [any_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): any_value(rng, depth - 1) for _ in range(rng.randrange(5))}


def any_mapping(rng: random.Random, depth: int) -> Any:
    """Return a value of a mapping: sound directives for the most part, wrong ones, and what is no JSON."""
    kind = rng.random()
    if kind < 0.003:
        return rng.choice(NO_JSON)
    if kind < 0.01:
        return any_value(rng, 3)
    if depth <= 0 or kind < 0.15:
        return rng.choice([{"@path": rng.choice(TEXTS)}, {"@template": rng.choice(TEXTS)}, scalar(rng)])
    if kind < 0.25:
        return [any_mapping(rng, depth - 1) for _ in range(rng.randrange(3))]
    if kind < 0.4:
        return {rng.choice(WORDS[:6]): any_mapping(rng, depth - 1) for _ in range(rng.randrange(4))}
    name = rng.choice([*RULES])
    argument = sound_argument(name, rng, depth - 1)
    if rng.random() < 0.05 and isinstance(argument, dict):
        argument[rng.choice(OPTIONS)] = any_mapping(rng, depth - 1)
    if rng.random() < 0.02:
        argument = any_mapping(rng, depth - 1)
    directive = {name if rng.random() < 0.99 else name.lower(): argument}
    if rng.random() < 0.02:
        directive[rng.choice(WORDS)] = scalar(rng)
    return directive


def sound_argument(name: str, rng: random.Random, depth: int) -> Any:  # noqa: PLR0911 - one for each directive
    """Return an argument that a directive may have."""
    inner: Callable[[], Any] = lambda: any_mapping(rng, depth)  # noqa: E731 - it is made in many places
    table: Callable[[], Any] = lambda: rng.choice([{"@path": rng.choice(TEXTS)}, {"a": inner(), "b": inner()}])  # noqa: E731
    text: Callable[[], Any] = lambda: rng.choice([rng.choice(TEXTS), {"@path": rng.choice(TEXTS)}])  # noqa: E731
    match name:
        case "@path" | "@template":
            return text()
        case "@if":
            return {rng.choice(["exists", "blank"]): inner(), "then": inner(), "else": inner()}
        case "@case":
            return {"operator": rng.choice(["lower", "upper", "title"]), "value": text()}
        case "@replace":
            odd = {"ignorecase": rng.random() < 0.5, "global": rng.random() < 0.5, "pattern2": rng.choice(TEXTS)}
            return {
                "pattern": rng.choice(TEXTS),
                "replacement": rng.choice(["$`$'", "x", "$&$$"]),
                "value": text(),
                **odd,
            }
        case "@arrayPath":
            return [text(), table()][: rng.randrange(3)]
        case "@flatten":
            return {"separator": rng.choice([".", "", "__"]), "value": inner(), "omitArrays": rng.random() < 0.3}
        case "@json":
            return {"mode": rng.choice(["encode", "decode"]), "value": inner()}
        case "@merge":
            return {"direction": rng.choice(["left", "right"]), "objects": [table() for _ in range(rng.randrange(4))]}
        case "@transform":
            return {"apply": table(), "mapping": table()}
        case _:
            return inner()


def fingerprint(value: Any) -> list[object]:
    """Return all of a value in one list, without recursion: equal for equal values of the same types."""
    found: list[object] = []
    stack = [value]
    while stack:
        part = stack.pop()
        found.append(type(part))
        if isinstance(part, dict):
            found.append(tuple(part))
            stack += part.values()
        elif isinstance(part, list):
            found.append(len(part))
            stack += part
        else:
            found.append(repr(part))
    return found


def attempt(function: Callable[[Any], Any], argument: Any) -> tuple[Any, str]:
    """Return what a function returns, and the sentence of its MappingError or nothing."""
    try:
        return function(argument), ""
    except MappingError as error:
        return None, str(error)


@pytest.mark.generated
def test_any_mapping_meets_any_event() -> None:
    """There is JSON or a MappingError of one line, neither side is touched, and what is refused was a problem."""
    rng = random.Random(20260331)
    outcomes = {"ok": 0, "refused": 0, "failed": 0}
    for _ in range(CASES):
        mapping = {rng.choice(WORDS[:5]): any_mapping(rng, rng.randrange(6)) for _ in range(rng.randrange(1, 4))}
        event = {word: any_value(rng, 4) for word in ("a", "b", "traits")}
        before = fingerprint(mapping), fingerprint(event)
        found = problems(mapping)
        started = monotonic()
        resolve, error = attempt(compile_mapping, mapping)
        if error:
            assert found
            outcomes["refused"] += 1
        else:
            assert isinstance(reads(mapping), frozenset)
            outcome, error = attempt(resolve, event)
            assert Missing not in fingerprint(outcome)
            outcomes["failed" if error else "ok"] += 1
        assert len(error.encode().splitlines()) <= 1
        assert monotonic() - started < SECONDS
        assert before == (fingerprint(mapping), fingerprint(event))

    assert min(outcomes.values()) > CASES // 200


@pytest.mark.parametrize("mapping", [None, [], "x", 5, object(), {1: 2}, {"a": {2: {"@path": "$."}}}])
def test_what_is_no_mapping_at_all(mapping: Any) -> None:
    """It is one problem, and one error."""
    assert len(problems(mapping)) == 1
    with pytest.raises(MappingError):
        compile_mapping(mapping)


def _nested(depth: int, make: Callable[[Any], Any], value: Any = 1) -> Any:
    for _ in range(depth):
        value = make(value)
    return value


WHOLE: Json = {"@path": "$."}
TWICE: Json = {"x": WHOLE, "y": WHOLE}
BOMBS: dict[str, Json] = {
    "transforms that double": _nested(12, lambda inner: {"@transform": {"apply": TWICE, "mapping": inner}}, WHOLE),
    "transforms of lists": _nested(
        12, lambda inner: {"@transform": {"apply": {"l": [WHOLE] * 9}, "mapping": inner}}, {"@template": "{{l}}"}
    ),
    "array paths that double": _nested(20, lambda inner: {"@arrayPath": [inner, TWICE]}, {"@path": "$.rows"}),
    "templates that double": _nested(
        12,
        lambda inner: {"@transform": {"apply": {"t": {"@template": "{{t}}{{t}}{{t}}{{t}}"}}, "mapping": inner}},
        {"@path": "$.t"},
    ),
    "what stands before": {"@replace": {"pattern": "o", "replacement": "$`$`$`$`$`", "value": {"@path": "$.t"}}},
    "long separators": {"@flatten": {"separator": "-" * 50_000, "value": {"@path": "$.rows"}}},
    "encoding": {"@json": {"mode": "encode", "value": {"@path": "$.deep"}}},
    "deep objects": {"@excludeWhenNull": {"@path": "$.deep"}},
    "deep lists": {"@template": "{{deep.a.a.a}}{{lists}}"},
    "flattened": {"@flatten": {"separator": ".", "value": {"@path": "$.deep"}}},
    "blank": {"@if": {"blank": {"@path": "$.lists"}, "then": 1}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_what_would_grow_without_end(name: str) -> None:
    """A value that is too large or too deep for a directive is an error, and found out soon."""
    event: Json = {
        "rows": [[n] * 10 for n in range(10)],
        "t": "o" * 20_000,
        "deep": _nested(100_000, lambda inner: {"a": inner}),
        "lists": _nested(100_000, lambda inner: [inner]),
    }
    started = monotonic()

    with pytest.raises(MappingError, match=r"too large|levels deep"):
        compile_mapping({"it": BOMBS[name]})(event)

    assert monotonic() - started < SECONDS


def test_deep_values_are_passed_on() -> None:
    """What no directive walks through may be as deep as it likes."""
    deep = _nested(100_000, lambda inner: {"a": inner})
    outcome: Any = compile_mapping({"it": {"@path": "$.deep"}, "no": {"@path": "$.deep" + ".a" * 99_999 + ".x.y"}})

    found = outcome({"deep": deep})
    assert found["it"] is deep
    assert found.get("no", MISSING) is MISSING


def test_a_long_path_or_template_is_read_in_one_go() -> None:
    """However many brackets and braces it opens."""
    started = monotonic()

    for text in (
        "[" * 50_000,
        "['" * 20_000,
        "[\"'" * 30_000,
        "[1" * 20_000,
        "{{" * 20_000,
        "{{}" * 20_000,
        "." * 50_000,
    ):
        assert compile_mapping({"a": {"@path": text}, "b": {"@template": text}})({}) is not MISSING
        assert isinstance(problems({"a": {"@path": text}, "b": {"@template": text}}), list)
        assert isinstance(reads({"a": {"@path": text}, "b": {"@template": text}}), frozenset)

    assert monotonic() - started < SECONDS
