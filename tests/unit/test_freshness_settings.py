"""`freshness` and `max_age` in the configuration: what audiences take from their source, and what is missing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from audience_sync.config import FreshnessRule, Settings, load
from audience_sync.errors import ConfigError
from tests.places import without_place

LOADED = 'freshness = "SELECT max(loaded_at) FROM orders"\n'
PAID = 'freshness = "SELECT max(paid_at) FROM payments"\n'
SQL = 'sql = "SELECT user_id FROM orders"\n'
NEEDS_QUERY = (
    "missing: `max_age` needs a query for the time of the newest data, as in"
    ' freshness = "SELECT max(loaded_at) FROM events"'
)
NEEDS_AGE = 'missing: `freshness` needs the maximum age of the newest data, as in max_age = "6h"'


def text(source: str = "", audience: str = "") -> str:
    """Return a file with these settings of a source and its audience."""
    return f'[sources.shop]\nurl = "sqlite:///shop.db"\n{source}[[audiences]]\nname = "Vip"\n{SQL}{audience}'


def loaded(folder: Path, content: str) -> Settings:
    """Return the settings of a file."""
    path = folder / "config.toml"
    path.write_text(content)
    return load(path, {})


def rule(table: str, hours: int) -> FreshnessRule:
    """Return the rule for a column of a table."""
    column = {"orders": "loaded_at", "payments": "paid_at"}[table]
    return FreshnessRule(sql=f"SELECT max({column}) FROM {table}", max_age=timedelta(hours=hours))


SETTINGS = {
    "neither": ("", "", None, None),
    "of the source": (f'{LOADED}max_age = "6h"\n', "", rule("orders", 6), rule("orders", 6)),
    "of the audience": ("", f'{PAID}max_age = "1h"\n', None, rule("payments", 1)),
    "both replaced": (
        f'{LOADED}max_age = "6h"\n',
        f'{PAID}max_age = "1h"\n',
        rule("orders", 6),
        rule("payments", 1),
    ),
    "another age": (f'{LOADED}max_age = "6h"\n', 'max_age = "1h"\n', rule("orders", 6), rule("orders", 1)),
    "another query": (f'{LOADED}max_age = "6h"\n', PAID, rule("orders", 6), rule("payments", 6)),
}


@pytest.mark.parametrize(("source", "audience", "of_source", "of_audience"), SETTINGS.values(), ids=SETTINGS)
def test_an_audience_takes_what_it_does_not_have_from_its_source(
    tmp_path: Path, source: str, audience: str, of_source: FreshnessRule | None, of_audience: FreshnessRule | None
) -> None:
    """Each of the two settings of an audience replaces that of its source."""
    settings = loaded(tmp_path, text(source, audience))

    assert settings.sources["shop"].freshness == of_source
    assert settings.audiences[0].freshness == of_audience


def test_a_rule_does_not_change_the_definition(tmp_path: Path) -> None:
    """The members do not depend on it, so a new rule is not an edited definition."""
    before = loaded(tmp_path, text()).audiences[0].definition_hash
    after = loaded(tmp_path, text(f'{LOADED}max_age = "6h"\n', 'max_age = "1h"\n')).audiences[0].definition_hash

    assert after == before


BAD = {
    "no age": (text(LOADED), [f"sources.shop.max_age: {NEEDS_AGE}"]),
    "no query": (text('max_age = "6h"\n'), [f"sources.shop.freshness: {NEEDS_QUERY}"]),
    "no age of an audience": (text("", PAID), [f"audiences[0].max_age: {NEEDS_AGE}"]),
    "no query of an audience": (text("", 'max_age = "6h"\n'), [f"audiences[0].freshness: {NEEDS_QUERY}"]),
    "not a duration": (
        text(f'{LOADED}max_age = "6 hours"\n'),
        ['sources.shop.max_age: must be a duration such as "30s", "15m", "2h" or "400d"'],
    ),
    "zero": (text(f'{LOADED}max_age = "0s"\n'), ["sources.shop.max_age: must be greater than zero"]),
    "empty": (text('freshness = " "\nmax_age = "6h"\n'), ["sources.shop.freshness: must not be empty"]),
    "not a query": (text('freshness = 5\nmax_age = "6h"\n'), ["sources.shop.freshness: must be text in quotes"]),
}


@pytest.mark.parametrize(("content", "expected"), BAD.values(), ids=BAD)
def test_what_is_wrong_has_its_place(tmp_path: Path, content: str, expected: list[str]) -> None:
    """One setting without the other is an error, as is a value that cannot be one."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, content)

    assert [without_place(line.strip()) for line in str(caught.value).splitlines()[1:]] == expected
