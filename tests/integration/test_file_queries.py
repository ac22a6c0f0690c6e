"""Definitions over files: queries read text by the rules of the language, one value at a time, and so do traits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audience_sync.audiences.definition import open_definition, reader_of_values
from audience_sync.audiences.explanation import find
from audience_sync.config import Settings, load
from audience_sync.core.keys import RefusedValue, RowFault
from audience_sync.core.model import Computation
from audience_sync.errors import SourceError

AS_OF = datetime(2026, 11, 21, 8, tzinfo=UTC)
MANY = 21_000  # rows; DuckDB would look at fewer to guess what a column is

Ask = Callable[..., dict[str, object]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Writes a configuration with one definition and returns the members, with the value of a computed trait."""

    def asked(sources: str, definition: str, *, entries: str = "audiences", more: str = "") -> dict[str, object]:
        kind = "sql" if definition.startswith("SELECT") else "query"
        settings = configured(
            tmp_path, f'{sources}\n[[{entries}]]\nname = "A"\n{kind} = {json.dumps(definition)}\n{more}'
        )
        audience = settings.audiences[0]
        read = reader_of_values(settings, audience)
        with open_definition(settings, audience, as_of=AS_OF) as found:
            rows = [dict(zip(found.columns, row, strict=True)) for page in found.pages() for row in page]
        if audience.computation is Computation.AUDIENCE:
            return dict.fromkeys((str(row["user_id"]) for row in rows), True)
        values = {str(row["user_id"]): read(row["value"]) for row in rows}
        return {
            user: value.reason if isinstance(value, RefusedValue) else json.loads(value)
            for user, value in values.items()
        }

    return asked


def configured(folder: Path, text: str) -> Settings:
    """Return the settings of a configuration."""
    (folder / "config.toml").write_text(text)
    return load(folder / "config.toml", {})


def lines(*objects: Mapping[str, object]) -> str:
    """Return objects as lines of JSON."""
    return "".join(f"{json.dumps(one)}\n" for one in objects)


EVENTS = '[sources.f]\n[sources.f.events]\npath = "events.{}"\n'


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "ndjson"])
@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-11-20 10:00:00+05:00", "2026-11-20T05:00:00"),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00"),
        ("2026-11-20 10:00:00+00", "2026-11-20T10:00:00"),
        ("2026-11-20 23:59:00", "2026-11-20T23:59:00"),
        ("2026-11-20", "2026-11-20T00:00:00"),
        ("1795168800", "2026-11-20T10:00:00"),
        ("1795168800123", "2026-11-20T10:00:00.123"),
    ],
)
def test_the_time_of_a_late_event_is_as_it_is_written(
    tmp_path: Path, ask: Ask, ending: str, written: str, instant: str
) -> None:
    """An offset, a time of day or a unix time in the last row is read, whatever all rows before it look like."""
    rows = [("u", "Viewed", "2026-11-01")] * MANY + [("late", "Ordered", written)]
    if ending == "csv":
        text = "user_id,event,timestamp\n" + "".join(f"{','.join(row)}\n" for row in rows)
    else:
        text = lines(*({"user_id": user, "event": event, "timestamp": at} for user, event, at in rows))
    (tmp_path / f"events.{ending}").write_text(text)
    age = (AS_OF - datetime.fromisoformat(instant).replace(tzinfo=UTC)).total_seconds()

    for seconds, expected in ((int(age) + 1, {"late": True}), (int(age) - 1, {})):
        assert ask(EVENTS.format(ending), f"event('Ordered').within({seconds} seconds).count() >= 1") == expected


def test_numbers_of_seconds_are_unix_times(tmp_path: Path, ask: Ask) -> None:
    """A number of JSON is a unix time as its digits in text are."""
    (tmp_path / "events.ndjson").write_text(lines({"user_id": 7, "event": "A", "timestamp": 1795168800}))

    assert ask(EVENTS.format("ndjson"), "event('A').within(1 day).count() = 1") == {"7": True}
    assert ask(EVENTS.format("ndjson"), "event('A').within(1 hour).count() = 1") == {}


def test_an_event_without_a_time_does_not_exist(tmp_path: Path, ask: Ask) -> None:
    """An event whose time cannot be read is left out, in one row or in all."""
    (tmp_path / "events.csv").write_text("user_id,event,timestamp\nu1,A,soon\nu2,A,\nu3,A,2026-11-20\n")

    assert ask(EVENTS.format("csv"), "event('A').count() >= 1") == {"u3": True}


@pytest.mark.parametrize(
    ("query", "column"),
    [
        ("event('A').count() >= 1", "timestamp"),
        ("event('A').where(property('due').within_last(30 days)).count() >= 1", "due"),
        ("event('A').where(property('due') < 2026-11-20).count() >= 1", "due"),
    ],
)
def test_a_query_refuses_dates_whose_order_it_does_not_know(tmp_path: Path, ask: Ask, query: str, column: str) -> None:
    """It names line, column and setting, where a time is asked for; with the setting there is one meaning."""
    time = {"timestamp": "11/05/2026", "due": "2026-11-06"} if column == "timestamp" else {"timestamp": "2026-11-06"}
    row = {"user_id": "u1", "event": "A", "due": "11/05/2026"} | time
    (tmp_path / "events.ndjson").write_text(lines({**row, "due": "x", "timestamp": "2026-11-01", "event": "B"}, row))
    sources = EVENTS.format("ndjson")
    with pytest.raises(SourceError) as caught:
        ask(sources, query)

    assert str(caught.value) == (
        f'The file {tmp_path / "events.ndjson"}, line 2, column {column}: "11/05/2026" is an ambiguous date: '
        "day or month may come first."
    )
    assert caught.value.hint == 'set date_order = "dmy" or date_order = "mdy" in [sources.f]'
    ordered = sources.replace("[sources.f]\n", '[sources.f]\ndate_order = "mdy"\n', 1)
    assert ask(ordered, query) == {"u1": True}


def test_a_property_that_comes_late_is_found(tmp_path: Path, ask: Ask) -> None:
    """A key of the last line is a property like any other."""
    view = {"user_id": "u2", "event": "Viewed", "timestamp": "2026-11-20T10:00:00Z"}
    order = {"user_id": "u1", "event": "Ordered", "timestamp": "2026-11-20T10:00:00Z", "revenue": 250}
    (tmp_path / "events.ndjson").write_text(lines(*[view] * MANY, order))

    assert ask(EVENTS.format("ndjson"), "event('Ordered').sum(property('revenue')) >= 100") == {"u1": True}


def test_texts_are_compared_by_the_rules_of_the_language(tmp_path: Path, ask: Ask) -> None:
    """A text written as a number is one, value by value; `007` and words are texts, `true` is true."""
    rows = ["u1,12.5,true,007", "u2,x,false,7", "u3,1e2,true,7.0", "u4,,,"]
    events = "".join(f"{row},A,2026-11-20\n" for row in rows)
    (tmp_path / "events.csv").write_text(f"user_id,n,vip,code,event,timestamp\n{events}")

    def holding(condition: str) -> list[str]:
        return sorted(ask(EVENTS.format("csv"), f"event('A').where({condition}).count() = 1"))

    assert holding("property('n') > 12") == ["u1", "u3"]
    assert holding("property('n') = 100") == ["u3"]
    assert holding("property('vip') = true") == ["u1", "u3"]
    assert holding("property('code') = 7") == ["u2", "u3"]
    assert holding("property('code') = '007'") == ["u1"]
    assert holding("property('n').exists()") == ["u1", "u2", "u3"]


@pytest.mark.parametrize("ending", ["csv", "ndjson"])
@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (None, {"u1": 12.5, "u2": "007", "u3": True, "u4": "x", "u5": 10115}),
        ("string", {"u1": "12.5", "u2": "007", "u3": "true", "u4": "x", "u5": "10115"}),
        (
            "number",
            {
                "u1": 12.5,
                "u2": RowFault.UNFIT_VALUE,
                "u3": RowFault.UNFIT_VALUE,
                "u4": RowFault.UNFIT_VALUE,
                "u5": 10115,
            },
        ),
        ("boolean", {"u3": True} | dict.fromkeys(["u1", "u2", "u4", "u5"], RowFault.UNFIT_VALUE)),
    ],
)
@pytest.mark.parametrize("definition", ["SELECT user_id, v AS value FROM f_events", "event('A').last(property('v'))"])
def test_values_of_traits_are_what_their_text_is(
    tmp_path: Path, ask: Ask, ending: str, declared: str | None, expected: dict[str, object], definition: str
) -> None:
    """A text is a number or a boolean if JSON would write it so; a declared type decides, also for SQL."""
    texts = {"u1": "12.5", "u2": '"007"', "u3": "true", "u4": '"x"', "u5": "10115"}
    if ending == "csv":
        rows = "".join(f"{user},{text},A,2026-11-20\n" for user, text in texts.items())
        (tmp_path / "events.csv").write_text(f"user_id,v,event,timestamp\n{rows}")
    else:
        rows = "".join(
            f'{{"user_id":"{user}","v":{text},"event":"A","timestamp":"2026-11-20"}}\n' for user, text in texts.items()
        )
        (tmp_path / "events.ndjson").write_text(rows)
    more = f'type = "{declared}"\n' if declared else ""

    assert ask(EVENTS.format(ending), definition, entries="traits", more=more) == expected


def test_what_lies_inside_text_is_looked_for_where_it_is_json(tmp_path: Path, ask: Ask) -> None:
    """A column may have objects, lists and texts; a path into a text finds nothing, and fails nothing."""
    rows = [{"user_id": f"u{n}", "p": value} for n, value in enumerate([{"a": 1}, "draft", [{"a": 1}], None, "{"])]
    (tmp_path / "events.ndjson").write_text(lines(*({**row, "event": "A", "timestamp": "2026-11-20"} for row in rows)))

    assert ask(EVENTS.format("ndjson"), "event('A').where(property('p.a') = 1).count() = 1") == {"u0": True}
    assert ask(EVENTS.format("ndjson"), "event('A').where(property('p.$.a') = 1).count() = 1") == {"u2": True}
    assert ask(EVENTS.format("ndjson"), "event('A').where(property('p') = 'draft').count() = 1") == {"u1": True}


def test_malformed_properties_fail_the_query(tmp_path: Path, ask: Ask) -> None:
    """A column that the file calls JSON must be JSON."""
    (tmp_path / "events.csv").write_text('user_id,event,timestamp,properties\nu1,A,2026-11-20,"{""a"": "\n')

    with pytest.raises(SourceError, match="Malformed JSON"):
        ask(EVENTS.format("csv") + 'properties = "properties"\n', "event('A').where(property('a') = 1).count() = 1")


def test_explain_says_that_a_key_is_a_placeholder(tmp_path: Path) -> None:
    """Explain names the reason why a user is rejected, also for keys that files write as numbers."""
    (tmp_path / "m.csv").write_text("user_id\nNULL\n1.14739E+18\n007\n")
    settings = configured(
        tmp_path, '[sources.f]\npath = "m.csv"\n[[audiences]]\nname = "A"\nsql = "SELECT user_id FROM f"\n'
    )

    def reasons(user: str) -> tuple[RowFault, ...]:
        return find(settings, settings.audiences[0], user, as_of=AS_OF).reasons

    assert reasons("NULL") == (RowFault.PLACEHOLDER_KEY,)
    assert reasons("1.14739E+18") == (RowFault.DECIMAL_KEY,)
    assert reasons("007") == ()
