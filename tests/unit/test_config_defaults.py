"""Every default that the documents state is the one in force."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from audience_sync.config import EventsTable, ProfilesTable, defaults, load, parse_duration
from audience_sync.config.tables import AudienceTable, TraitTable
from audience_sync.manual.manual_pages import manual_pages

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.toml").read_text(encoding="utf-8")
MANUAL = " ".join(" ".join(manual_pages()[topic].text() for topic in ("configuration", "audiences-in-sql")).split())


def commented(heading: str) -> dict[str, Any]:
    """Return the settings that the example shows behind a #, below a heading that does."""
    _, _, rest = EXAMPLE.partition(f"\n# {heading}")
    lines = re.findall(r"^# (\w+ = .*)", re.split(r"\n(?!#)", rest)[0], re.MULTILINE)
    return tomllib.loads("\n".join(lines))


def test_a_file_with_nothing_else_means_the_same_as_the_example(tmp_path: Path) -> None:
    """A value that the example shows without a # may be deleted: it is the default."""
    example = tomllib.loads(EXAMPLE)
    source, audience = example["sources"]["shop"], example["audiences"][0]
    bare = (
        f'[sources.shop]\nurl = "{source["url"]}"\n[[audiences]]\nname = "{audience["name"]}"\n'
        f'sql = """{audience["sql"]}"""\ncompany_keys = {{ groupId = "company_id" }}\n'
    )
    paths = tmp_path / "bare.toml", tmp_path / "example.toml"
    for path, text in zip(paths, (bare, EXAMPLE), strict=True):
        path.write_text(text, encoding="utf-8")

    least, whole = (load(path, {}).model_copy(update={"path": tmp_path}) for path in paths)

    assert least == whole


@pytest.mark.parametrize(
    ("heading", "table", "names"),
    [
        ("[sources.shop.events]", EventsTable, ("user", "name", "timestamp")),
        ("[sources.shop.profiles]", ProfilesTable, ("user",)),
        ("[[audiences]]", AudienceTable, ("timezone",)),
        ("[[traits]]", TraitTable, ("on_missing",)),
    ],
)
def test_defaults_behind_a_hash_are_in_force(heading: str, table: type[BaseModel], names: tuple[str, ...]) -> None:
    """The example shows the defaults of tables that are off as well."""
    shown = commented(heading)

    assert {name: shown[name] for name in names} == {name: table.model_fields[name].default for name in names}


def test_jitter_of_the_example_follows_from_its_schedule() -> None:
    """`every` and the jitter that is off belong together."""
    shown = tomllib.loads(EXAMPLE)["schedule"]
    jitter = re.search(r'^# jitter = "(\w+)"', EXAMPLE, re.MULTILINE)

    assert jitter
    assert parse_duration(jitter[1]) == parse_duration(shown["every"]) * defaults.JITTER_SHARE


def test_defaults_in_the_manual_are_in_force() -> None:
    """The limits, the rhythm and the variable that the manual names are those that hold."""
    guard = re.search(
        r"more than (\d+) % of the members would exit, more than (\d+) % would enter or more than (\d+) %"
        r" would be updated"
        r".*? `min_members = (\d+)`",
        MANUAL,
    )
    every = re.search(r'\*\*Schedule\*\*: `every = "(\w+)"` plus `jitter` \(default: half of `every`\)', MANUAL)

    assert guard
    assert [int(number) for number in guard.groups()] == [
        defaults.GUARD.max_exit_percent,
        defaults.GUARD.max_entry_percent,
        defaults.GUARD.max_update_percent,
        defaults.GUARD.min_members,
    ]
    assert every
    assert parse_duration(every[1]) == defaults.EVERY
    assert defaults.JITTER_SHARE == 0.5
    assert f'api_key = "{defaults.API_KEY}"' in MANUAL
    assert all(f"`{word}`" in MANUAL for word in ("NULL", "\\N", "None", "undefined", "NaN", "N/A"))
    assert {"NULL", "\\N", "None", "undefined", "NaN", "N/A"} < {*defaults.PLACEHOLDERS}
