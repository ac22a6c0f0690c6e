"""Settings of files and keys: valid ones, and the path and sentence of each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from audience_sync.config import Settings, load
from audience_sync.config.defaults import PLACEHOLDERS
from audience_sync.core.model import ColumnType, DateOrder
from audience_sync.errors import ConfigError

AUDIENCE = '[[audiences]]\nname = "A"\nsql = "SELECT 1"\n'
QUERY = '[sources.s.events]\npath = "e.csv"\n[[audiences]]\nname = "A"\nquery = "event(\'A\').count() >= 1"\n'


def loaded(folder: Path, text: str) -> Settings:
    """Return the settings of a file."""
    (folder / "config.toml").write_text(text)
    return load(folder / "config.toml", {})


def test_files_are_described_by_their_source(tmp_path: Path) -> None:
    """The separator, the order of dates and the types of columns are settings of a source of files."""
    text = '[sources.s]\npath = "m.csv"\nseparator = ";"\ndate_order = "dmy"\n'
    text += 'types = { spend = "number", seen = "time" }\n'
    source = loaded(tmp_path, text + AUDIENCE).sources["s"]

    assert (source.separator, source.date_order) == (";", DateOrder.DMY)
    assert source.types == {"spend": ColumnType.NUMBER, "seen": ColumnType.TIME}
    plain = loaded(tmp_path, '[sources.s]\npath = "m.csv"\n' + AUDIENCE).sources["s"]
    assert (plain.separator, plain.date_order, plain.types) == (None, None, {})


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            'path = "m.csv"\nseparator = ";;"',
            'sources.s.separator: must be one ASCII character such as ";", but not a quotation mark',
        ),
        (
            'path = "m.csv"\nseparator = \'"\'',
            'sources.s.separator: must be one ASCII character such as ";", but not a quotation mark',
        ),
        ('path = "m.csv"\ndate_order = "ymd"', "sources.s.date_order: must be one of `dmy`, `mdy`"),
        ('path = "m.csv"\ntypes = { a = "integer" }', "sources.s.types.a: must be one of `number`, `time`"),
        (
            'url = "sqlite:///s.db"\nseparator = ";"',
            "sources.s.separator: applies only to files, but this source has no `path`",
        ),
        (
            'url = "sqlite:///s.db"\ndate_order = "dmy"',
            "sources.s.date_order: applies only to files, but this source has no",
        ),
        (
            'url = "sqlite:///s.db"\ntypes = { a = "time" }',
            "sources.s.types: applies only to files, but this source has no",
        ),
    ],
)
def test_mistakes_about_files_are_told(tmp_path: Path, source: str, problem: str) -> None:
    """A setting that cannot be is named with its path, and so is one that would be of no use."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"[sources.s]\n{source}\n{AUDIENCE}")

    assert problem in str(caught.value)


def test_a_query_means_something_else_with_other_types(tmp_path: Path) -> None:
    """The digest of a definition follows the settings of its files; one that is not set changes none."""

    def hash_of(source: str) -> str:
        return loaded(tmp_path, f"[sources.s]\n{source}\n{QUERY}").audiences[0].definition_hash

    hashes = [hash_of(one) for one in ("", 'date_order = "dmy"', 'separator = ";"', 'types = { a = "time" }')]
    assert len(set(hashes)) == 4
    assert hash_of("types = {}") == hashes[0]


def test_the_rules_of_keys_follow_the_file(tmp_path: Path) -> None:
    """The placeholders are those of the file, for every source; numbers are only looked at in text files."""
    sources = "".join(f"[sources.{name}]\n{place}\n" for name, place in SOURCES.items())
    audiences = "".join(f'{AUDIENCE.replace("A", name)}source = "{name}"\n' for name in SOURCES)
    settings = loaded(tmp_path, f'[keys]\nplaceholders = ["none", "-"]\n{sources}{audiences}')
    rules = {one.source: settings.key_rules(one) for one in settings.audiences}

    assert {one.placeholders for one in rules.values()} == {("none", "-")}
    assert {name for name, one in rules.items() if one.of_text_files} == {"csv", "json", "mixed"}
    assert loaded(tmp_path, sources).keys.placeholders == PLACEHOLDERS


SOURCES = {
    "csv": 'path = "m.csv"',
    "json": 'path = "m.NDJSON.gz"',
    "parquet": 'path = "m.parquet"',
    "mixed": 'path = "m.parquet"\n[sources.mixed.events]\npath = "e.csv"',
    "database": 'url = "sqlite:///s.db"',
    "duckdb": 'url = "duckdb://"',
}


@pytest.mark.parametrize("wrong", ['"NULL"', "[1]", '[""]', '["a", " "]'])
def test_placeholders_are_texts(tmp_path: Path, wrong: str) -> None:
    """An empty placeholder is refused: an empty key is one already."""
    with pytest.raises(ConfigError, match=r"keys\.placeholders: must be a list of strings, as in"):
        loaded(tmp_path, f"[keys]\nplaceholders = {wrong}\n")
    assert loaded(tmp_path, "[keys]\nplaceholders = []\n").keys.placeholders == ()
