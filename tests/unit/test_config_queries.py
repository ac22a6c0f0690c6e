"""Queries, computed traits, events, profiles and files in the configuration: what is right, and each mistake's path."""

from __future__ import annotations

from pathlib import Path

import pytest

from audience_sync.config import Settings, load
from audience_sync.core.model import Computation, OnMissing, TraitType
from audience_sync.errors import ConfigError
from tests.places import without_place

SHOP = '[sources.shop]\nurl = "sqlite:///shop.db"\n'
EVENTS = '[sources.shop.events]\ntable = "events"\n'
PROFILES = '[sources.shop.profiles]\ntable = "users"\nuser = "id"\ncompany = "org"\n'
COUNT = "query = \"event('A').count() >= 1\"\n"


def audience(name: str, body: str) -> str:
    """Return one audience of the file."""
    return f'[[audiences]]\nname = "{name}"\n{body}\n'


def trait(name: str, body: str) -> str:
    """Return one computed trait of the file."""
    return f'[[traits]]\nname = "{name}"\n{body}\n'


def loaded(folder: Path, text: str) -> Settings:
    """Return the settings of a file with this text."""
    path = folder / "config.toml"
    path.write_text(text)
    return load(path, {})


def problems(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a file, line by line."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return [without_place(line.strip()) for line in str(caught.value).splitlines()[1:]]


BAD = {
    "both": (
        SHOP + EVENTS + audience("A", COUNT + 'sql = "SELECT 1"'),
        "audiences[0].query: cannot be combined with `sql`",
    ),
    "neither": (SHOP + audience("A", ""), "audiences[0].sql: missing"),
    "neither_of_trait": (SHOP + trait("A", ""), "traits[0].sql: missing"),
    "unreadable": (
        SHOP + EVENTS + audience("A", "query = \"event('A').cuont() >= 1\""),
        "audiences[0].query: column 12: there is no function `cuont`; did you mean `count`?",
    ),
    "no_events": (
        SHOP + audience("A", COUNT),
        "audiences[0].query: uses events, but [sources.shop.events] is not defined",
    ),
    "no_rooms": (
        SHOP + audience("Vip", 'sql = "SELECT 1"') + audience("A", "query = \"trait('vip') = true\""),
        "audiences[1].query: needs [sources.shop.events] or [sources.shop.profiles]",
    ),
    "unknown_trait": (
        SHOP + EVENTS + audience("Vip", COUNT) + audience("A", "query = \"trait('vipp') = true\""),
        (
            "audiences[1].query: uses trait('vipp'), but there is no audience or computed trait with this"
            " key (did you mean"
        ),
    ),
    "self": (
        SHOP + EVENTS + audience("A", "query = \"trait('a') = true\""),
        "audiences[0].query: uses itself: a → a",
    ),
    "circle": (
        SHOP
        + EVENTS
        + audience("A", "query = \"trait('b') = true\"")
        + audience("B", "query = \"NOT trait('c') > 1\"")
        + trait("C", "query = \"event('x').where(trait('a') = true).count()\""),
        "audiences[0].query: uses itself: a → b → c → a",
    ),
    "other_source": (
        SHOP
        + EVENTS
        + '[sources.crm]\nurl = "sqlite:///crm.db"\n'
        + audience("Vip", 'source = "crm"\nsql = "SELECT 1"')
        + audience("A", 'source = "shop"\nquery = "trait(\'vip\') = true"'),
        "audiences[1].query: uses trait('vip'), but audiences[0] reads the source `crm`, not `shop`",
    ),
    "identity_elsewhere": (
        SHOP + EVENTS + PROFILES + audience("A", COUNT + 'user_keys = { userId = "user_id" }'),
        (
            "audiences[0].user_keys.userId: cannot be set for a query; remove it. The identity comes from"
            " the column that `user` names in [sources.NAME.profiles], here `id`"
        ),
    ),
    "identifier_of_events": (
        SHOP + EVENTS + audience("A", COUNT + 'user_keys = { email = "email" }'),
        "audiences[0].user_keys.email: needs [sources.NAME.profiles]",
    ),
    "condition_as_trait": (
        SHOP + EVENTS + trait("A", COUNT),
        "traits[0].query: column 1: a computed trait needs a value, but this is a condition",
    ),
    "value_as_audience": (
        SHOP + EVENTS + audience("A", "query = \"event('A').count()\""),
        "audiences[0].query: column 12: an audience needs a condition",
    ),
    "key_of_both": (
        SHOP + EVENTS + audience("A", COUNT) + trait("A", "query = \"event('A').count()\""),
        "traits[0].name: is also the name of audiences[0]; rename one of them",
    ),
    "type": (
        SHOP + EVENTS + trait("A", 'query = "event(\'A\').count()"\ntype = "int"'),
        "traits[0].type: must be one of `boolean`, `number`, `string`, `date`, `url`, `currency`",
    ),
    "type_of_another_kind": (
        SHOP + EVENTS + trait("A", "query = \"event('A').unique(property('x'))\"\ntype = \"number\""),
        "traits[0].type: does not match the query, which returns lists, sent as text: string",
    ),
    "on_missing": (
        SHOP + EVENTS + trait("A", 'query = "event(\'A\').count()"\non_missing = "drop"'),
        "traits[0].on_missing: must be one of `null`, `keep`",
    ),
    "two_places": (
        SHOP + EVENTS + 'sql = "SELECT 1"',
        "sources.shop.events.sql: cannot be combined with `table`; remove one of them",
    ),
    "no_place": (
        SHOP + "[sources.shop.events]",
        "sources.shop.events.table: missing: set `table`, `sql` or `path` for the events",
    ),
    "path_beside_url": (
        SHOP + 'path = "a.csv"',
        "sources.shop.path: cannot be combined with `url`; remove one of them",
    ),
    "events_path_beside_url": (
        SHOP + '[sources.shop.events]\npath = "a.csv"',
        "sources.shop.events.path: cannot be used in a source with `url`",
    ),
    "strange_file": ('[sources.s]\npath = "a.xlsx"', "sources.s.path: must end in one of .csv, .tsv"),
    "remote_file": ('[sources.s]\npath = "s3://a/b.csv"', "sources.s.path: must be the path of a local file"),
    "memory": ('[sources.s]\npath = "a.csv"\nmemory_limit = "lots"', "sources.s.memory_limit: must be a size such as"),
    "no_url": ("[sources.s]", "sources.s.url: missing"),
    "zone": (SHOP + EVENTS + audience("A", COUNT + 'timezone = "Mars"'), "audiences[0].timezone: must be a time zone"),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_problem_of_a_query_has_its_path(tmp_path: Path, text: str, expected: str) -> None:
    """Every mistake is named with its path, and with the place in the query where there is one."""
    assert any(line.startswith(expected) for line in problems(tmp_path, text)), problems(tmp_path, text)


def test_a_copied_audience_is_one_problem(tmp_path: Path) -> None:
    """A copy that still has the name of the audience that it uses does not use itself, whichever comes first."""
    original, copy = audience("A", COUNT), audience("A", "query = \"trait('a') = true\"")
    user = audience("B", "query = \"trait('a') = true\"")

    for text in (original + copy + user, copy + original + user):
        assert problems(tmp_path, SHOP + EVENTS + text) == [
            "audiences[1].name: is also the name of audiences[0]; rename one of them"
        ]


def test_a_query_takes_its_keys_from_the_profiles(tmp_path: Path) -> None:
    """The identity is the profiles' user, the company their company, and further keys come on top."""
    both = SHOP + EVENTS + PROFILES
    first = loaded(tmp_path, both + audience("A", COUNT)).audiences[0]
    second = loaded(
        tmp_path, both + audience("A", COUNT + 'user_keys = { email = "mail" }\ncompany_keys = {}')
    ).audiences[0]
    third = loaded(tmp_path, SHOP + EVENTS + 'user = "who"\n' + audience("A", COUNT)).audiences[0]

    assert (first.user_keys, first.company_keys) == ({"userId": "id"}, {"groupId": "org"})
    assert (second.user_keys, second.company_keys) == ({"userId": "id", "email": "mail"}, {})
    assert (third.user_keys, third.company_keys) == ({"userId": "who"}, {})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("event('A').count()", TraitType.NUMBER),
        ("event('A').max(property('x'))", TraitType.NUMBER),
        ("event('A').max(property('x') as string)", TraitType.STRING),
        ("event('A').mode(property('x'))", TraitType.STRING),
        ("event('A').unique(property('x'))", TraitType.STRING),
        ("event('A').unique(property('x')).count()", TraitType.NUMBER),
        ("event('A').last(property('x'))", None),
    ],
)
def test_type_follows_from_the_query(tmp_path: Path, query: str, expected: TraitType | None) -> None:
    """A trait is declared with the type that its query gives; nobody guesses where it gives none."""
    text = SHOP + EVENTS + trait("A", f'query = "{query}"')

    found = loaded(tmp_path, text).audience("a")

    assert found.declared_type is expected
    assert (found.computation, found.on_missing) == (Computation.TRAIT, OnMissing.NULL)
    if expected in (None, TraitType.NUMBER):
        assert loaded(tmp_path, text + 'type = "currency"').audience("a").declared_type is TraitType.CURRENCY


def test_hash_changes_with_whatever_a_query_means(tmp_path: Path) -> None:
    """Where events are, a time zone, and what is asked for by key are part of the definition; a schedule is not."""
    used = audience("Used", "query = \"event('A').count() >= 1\"")
    user = audience("User", "query = \"trait('used') = true\"")

    def hash_of(text: str) -> str:
        return loaded(tmp_path, text).audience("user").definition_hash

    before = hash_of(SHOP + EVENTS + used + user)

    assert hash_of(SHOP + EVENTS + used + user + 'schedule = { every = "1h" }') == before
    assert len({
        before,
        hash_of(SHOP + EVENTS + 'name = "what"\n' + used + user),
        hash_of(SHOP + EVENTS + used.replace("'A'", "'B'") + user),
        hash_of(SHOP + EVENTS + used + user + 'timezone = "Europe/Berlin"'),
        hash_of(SHOP + EVENTS + used + 'timezone = "Asia/Tokyo"\n' + user),
    }) == 5  # fmt: skip


def test_files_become_views(tmp_path: Path) -> None:
    """A source of files has a view under its name, and one each for the files of its events and profiles."""
    text = (
        '[sources.s]\npath = "m-*.csv"\n[sources.s.events]\npath = "e.ndjson.gz"\n[sources.s.profiles]\nuser = "id"\n'
    )

    source = loaded(tmp_path, text).sources["s"]

    assert source.url is None
    assert source.files == {"s": str(tmp_path / "m-*.csv"), "s_events": str(tmp_path / "e.ndjson.gz")}
    assert source.events is not None
    assert source.profiles is not None
    assert (source.events.table, source.profiles.table) == ("s_events", "s")
