"""A problem of the configuration names its line and its audience: nobody counts tables to find `audiences[7]`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.config import load
from audience_sync.config.line_numbers import lines_of
from audience_sync.config.problems import Location
from audience_sync.errors import ConfigError

FILE = '''\
# the head
identity = "userId"

[database]
url = "mysql://db/x"          # not one of the two

[sources.shop]
url = "sqlite:///shop.db"
[sources."old shop".events]
user = 7

[[audiences]]                 # [[audiences]] in a comment
name = "Gold"
sql = """
SELECT user_id FROM orders
[[audiences]]
name = 'not this one'
"""
user_keys = { userId = "user_id", email = [1] }
# }

[[audiences]]
name = "Big \\"Spenders\\""
source = "shop"
  [audiences.schedule]
  every = 7

[[audiences]]
sql = 'SELECT 1'
source = "shop"

[[traits]]
name = "Spend"
source = "shop"
sql = "SELECT 1"
type = "text"

[[mappings]]
name = "Track"
trigger = "type ="
action = "trackEvent"
[mappings.fields]
event = "VIP"
'''

NO_DURATION = 'must be a duration such as "30s", "15m", "2h" or "400d"'


def problems(folder: Path, text: str) -> list[str]:
    """Return the problems of a file, with their places."""
    path = folder / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return [line.removeprefix("  ") for line in str(caught.value).splitlines()[1:]]


def test_every_problem_has_its_line_and_its_name(tmp_path: Path) -> None:
    """All tables: a wrong value has its own line, what is missing the line of its table, entries their name."""
    assert problems(tmp_path, FILE) == [
        "line 5: database.url: must begin with `sqlite:///` or `postgresql://`",
        'line 9: sources."old shop".url: missing',
        'line 9: sources."old shop".events.table: missing: set `table`, `sql` or `path` for the events',
        'line 10: sources."old shop".events.user: must be text in quotes',
        'line 12, "Gold": audiences[0].source: missing: set it to one of `shop`, `old shop`',
        'line 19, "Gold": audiences[0].user_keys.email: must be text in quotes',
        'line 22, "Big "Spenders"": audiences[1].sql: missing',
        f'line 26, "Big "Spenders"": audiences[1].schedule.every: {NO_DURATION}',
        "line 28: audiences[2].name: missing",
        'line 36, "Spend": traits[0].type: must be one of `boolean`, `number`, `string`, `date`, `url`, `currency`',
        'line 40, "Track": mappings[0].trigger: character 7: expected a value after `=`, found the end',
        'line 43, "Track": mappings[0].fields.event: unknown field of trackEvent (did you mean `event_name`?)',
    ]


def test_a_file_of_an_older_editor_has_the_same_lines() -> None:
    """A byte order mark and Windows' line ends change nothing."""
    assert lines_of(FILE.replace("\n", "\r\n")) == lines_of(FILE)


@pytest.mark.parametrize(
    ("location", "line"),
    [
        (("identity",), 2),
        (("database",), 4),
        (("database", "url"), 5),
        (("sources",), 7),
        (("sources", "shop", "url"), 8),
        (("sources", "old shop"), 9),
        (("sources", "old shop", "events", "user"), 10),
        (("audiences", 0), 12),
        (("audiences", 0, "name"), 13),
        (("audiences", 0, "sql"), 14),
        (("audiences", 0, "user_keys"), 19),
        (("audiences", 1), 22),
        (("audiences", 1, "schedule"), 25),
        (("audiences", 1, "schedule", "every"), 26),
        (("audiences", 2, "sql"), 29),
        (("traits", 0, "type"), 36),
        (("mappings", 0, "fields", "event"), 43),
    ],
)
def test_each_setting_has_its_line(location: tuple[str | int, ...], line: int) -> None:
    """Headers, keys, tables in tables; what looks like either inside a text or a comment is not one."""
    assert lines_of(FILE)[location] == line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[audiences]]\nname = 'Gold'\nsql = 'SELECT 1'\n", 'line 1, "Gold": audiences[0].source: missing'),
        ("\n[[audiences]]\n\nname = 'Gold'\nsql = 7\n", 'line 5, "Gold": audiences[0].sql: must be text in quotes'),
        ("[[audiences]]\nname = 7\nsql = 'SELECT 1'\n", "line 2: audiences[0].name: must be text in quotes"),
        ("[[audiences]]\nname = 'a\\nb'\nsql = 7\n", 'line 3, "a\\nb": audiences[0].sql: must be'),
        ("schedule.every = 'soon'\n", "line 1: schedule.every: must be a duration"),
        ('schedule = { jitter = "1h",  every = "soon" }\n', "line 1: schedule.every: must be a duration"),
        ("idenity = 'x'\n", "line 1: idenity: unknown setting (did you mean `identity`?)"),
        ("[[mappings]]\nname = 'T'\naction = 'track'\n", 'line 3, "T": mappings[0].action: must be one of'),
        ("[sources.shop]\nmemory_limit = '1GB'\n", "line 1: sources.shop.url: missing"),
    ],
)
def test_a_problem_begins_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    """The place stands before the path, which stays as it is: `line 84, "Big Spenders": audiences[7].sql: missing`."""
    assert any(line.startswith(problem) for line in problems(tmp_path, text)), problems(tmp_path, text)


VALUES = st.sampled_from(
    [
        "1",
        '"text # [x]"',
        "'[[a]]'",
        "[1, 2,\n  3]  # [[a]]",
        '{ b = "}" }',
        '"""\n[a]\nb = 1\n"""',
        "'''\n''''",
        '"""""a"""',
        "[[1],\n[2]]",
        "1979-05-27T07:32:00Z",
        "[ # ]\n]",
        '"\\\\"',
        '""',
    ]
)
KEYS = st.sampled_from(["a", "b-1", '"c d"', "'e.f'", '"\\u0067"'])


@given(st.lists(st.tuples(st.sampled_from(["element", "table", "comment", "setting"]), KEYS, VALUES), max_size=12))
def test_whatever_a_file_holds_its_settings_have_their_lines(parts: list[tuple[str, str, str]]) -> None:
    """Values of any kind over several lines, quoted keys and comments: each setting is found where it was written."""
    text, expected = "", dict[Location, int]()
    table: Location = ()
    count = -1
    for kind, key, value in parts:
        line = text.count("\n") + 1
        word = next(iter(tomllib.loads(f"{key} = 1")))
        match kind:
            case "element":
                count += 1
                table = ("list", count)
                text += "[[list]]\n"
                expected[table] = line
            case "table":
                place: Location = ("list", count, f"t {word}") if count >= 0 else (f"t {word}",)
                if place in expected:
                    continue
                table = place
                header = json.dumps(f"t {word}")
                text += f"[list.{header}]\n" if count >= 0 else f"[{header}]\n"
                expected[table] = line
            case "comment":
                text += f"  # {key} = {value!r}\n\n"
            case _:
                if (*table, word) in expected:
                    continue
                text += f"  {key} = {value}\n"
                expected[(*table, word)] = line
    tomllib.loads(text)
    found = lines_of(text)

    assert {place: found.get(place) for place in expected} == expected
