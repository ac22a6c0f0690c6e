"""Of two rows with one key, the row with more identifiers is used, whatever the order and wherever rows are kept."""

from __future__ import annotations

import itertools
import json

import pytest
import sqlalchemy as sa

from audience_sync.audiences import explanation
from audience_sync.config import load
from audience_sync.core.keys import RowFault
from audience_sync.core.model import Counts, Member
from audience_sync.store import reports, schema
from audience_sync.sync import duckdb_diff
from audience_sync.sync.preview import preview
from tests.factories import NOON, company_identifiers
from tests.syncing import Syncing, people
from tests.tuned import in_parts

pytestmark = pytest.mark.slow_on_postgres

ROWS = [("u1", None), ("u1", "c2"), ("u1", "c1"), ("u1", "")]


@pytest.mark.parametrize("rows", list(itertools.permutations(ROWS))[::5])
def test_the_row_with_a_company_is_used_in_any_order(syncing: Syncing, rows: tuple[tuple[object, ...], ...]) -> None:
    """A row without a company key does not hide one that has it, and of two companies the smaller JSON is used."""
    report = syncing.sync(rows)

    assert report.run.counts == Counts(read=4, entered=1, duplicates=3)
    assert syncing.members() == {"u1": company_identifiers("c1")}
    kept = reports.rejections(syncing.database, run_id=report.run.id)
    assert sorted((row["reason"], row["row"]) for row in kept) == [
        ("duplicate", '["u1","{\\"company\\":{\\"groupId\\":\\"c2\\"}}"]'),
        ("duplicate", '["u1"]'),
        ("duplicate", '["u1"]'),
    ]


@pytest.mark.parametrize("at_once", [3, 5000])
def test_rows_in_many_pieces_give_the_same_members(syncing: Syncing, at_once: int) -> None:
    """The rule is the same where rows are compared piece by piece, and a plan and a preview agree with the sync."""
    tuning = in_parts(at_once)
    syncing.tune(**vars(tuning))
    rows = [row for key in people(range(40)) for row in ((key, None), (key, f"c-{key}"))]

    syncing.shop.set_orders(rows)
    plan, changes = syncing.plan()
    audience = syncing.settings.audiences[0]
    seen = preview(syncing.settings, audience, as_of=NOON, sample=40, on_page=lambda _: None, tuning=tuning)
    report = syncing.sync()

    expected = {key: company_identifiers(f"c-{key}") for key in people(range(40))}
    assert syncing.members() == expected
    assert {change.profile_key: change.identifiers for change in changes} == expected
    assert {member.profile_key: member.identifiers for member in seen.sample} == expected
    assert plan.counts == report.run.counts == Counts(read=80, entered=40, duplicates=40)
    assert report.rejections == {RowFault.DUPLICATE: 40}


def test_a_row_order_is_not_a_change(syncing: Syncing) -> None:
    """The same rows in another order leave every member unchanged, and the duplicates are counted each time."""
    syncing.sync(ROWS)

    assert syncing.sync(ROWS[::-1]).run.counts == Counts(read=4, unchanged=1, duplicates=3)
    assert syncing.sync(ROWS[::-1]).run.counts == Counts(read=4, unchanged=1, duplicates=3)


def test_a_trait_takes_the_value_of_the_row_with_more_identifiers(syncing: Syncing) -> None:
    """Identifiers come before the value: the smaller value of a row without a company is not used."""
    sql = "SELECT customer_id AS user_id, NULLIF(company_id, 0) AS company_id, company_id AS value FROM orders"
    syncing.configure(entries="traits", sql=f"{sql} WHERE ordered_at <= :now")
    for rows in ([("u1", 0), ("u1", 7)], [("u1", 7), ("u1", 0)]):
        syncing.sync(rows)

        assert syncing.query("SELECT profile_key, value FROM memberships") == [("u1", "7")]


@pytest.mark.parametrize(("rules", "updated"), [("1", 1), (duckdb_diff._RULES, 0)])
def test_another_rule_compares_everybody_again(
    syncing: Syncing, monkeypatch: pytest.MonkeyPatch, rules: str, updated: int
) -> None:
    """The digest that a version with another rule kept of the members does not make them pass for unchanged."""
    with monkeypatch.context() as older:
        older.setattr(duckdb_diff, "_RULES", rules)
        syncing.sync([("u1", "c1")])
    kept = syncing.query("SELECT run_id, version, members, total FROM digests")
    assert [(row.run_id, json.loads(row.version)[0], row.members) for row in kept] == [(0, rules, 1)]
    with syncing.database.write() as connection:  # as if that version had used another row
        connection.execute(sa.update(schema.memberships).values(identifiers=None))

    assert syncing.sync([("u1", "c1")]).run.counts == Counts(read=1, updated=updated, unchanged=1 - updated)
    now = syncing.query("SELECT run_id, version, members, total FROM digests")
    assert [(row.run_id, json.loads(row.version)[0], row.members) for row in now] == [(0, duckdb_diff._RULES, 1)]
    assert now[0].total == kept[0].total


def test_kept_values_do_not_stand_in_for_duplicates(syncing: Syncing) -> None:
    """As many members as rows are not those rows where some stay without a row and some rows are duplicates."""
    sql = "SELECT customer_id AS user_id, company_id AS value FROM orders WHERE ordered_at <= :now"
    syncing.configure(entries="traits", sql=sql, company_keys={}, audience={"on_missing": "keep"})
    syncing.sync([("stays", 1), ("twice", 1)])
    rows = [("twice", 1), ("twice", 2)]
    syncing.sync(rows)

    report = syncing.sync(rows)

    assert report.run.counts == Counts(read=2, unchanged=1, duplicates=1)
    assert report.rejections == {RowFault.DUPLICATE: 1}


def test_a_search_for_one_person_uses_the_same_row(syncing: Syncing) -> None:
    """Who looks for one person in the rows of a source sees the member that a sync makes of them."""
    rows = [*ROWS, ("u2", 'a"b'), ("u2", "a"), ("u3", None), ("u3", None)]
    syncing.sync(rows)
    settings = syncing.settings

    members = syncing.members()
    found = [explanation.find(settings, settings.audiences[0], key, as_of=syncing.clock()) for key in members]

    assert [one.member for one in found] == [Member(*member) for member in members.items()]
    assert [len(one.reasons) for one in found] == [3, 1, 1]


ROWS_SQL = " UNION ALL ".join(
    f"SELECT 'u1' AS user_id, {email} AS email, {company} AS company_id, '{value}' AS value"
    for email, company, value in [
        ("NULL", "NULL", "a"),
        ("'e'", "''", "b"),
        ("'e'", "'c2'", "c"),
        ("'e'", "'c1'", "e"),
        ("'e'", "'c1'", "d"),
        ("NULL", "'c0'", "a"),
    ]
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "duckdb"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where memberships are kept is no matter
def test_a_query_uses_the_same_row(syncing: Syncing, request: pytest.FixtureRequest, kind: str) -> None:
    """A query that asks for a computed trait by its key sees the value that a sync sends."""
    urls = {"sqlite": f"sqlite:///{syncing.shop.path}", "duckdb": "duckdb:///:memory:"}
    url = urls.get(kind) or request.getfixturevalue("postgres_url")
    path = syncing.shop.path.with_name("both.toml")
    path.write_text(
        f"[sources.s]\nurl = {json.dumps(url)}\n[sources.s.profiles]\nsql = \"SELECT 'u1' AS user_id\"\n"
        f"[[traits]]\nname = 'plan'\nsql = {json.dumps(ROWS_SQL)}\n"
        "user_keys = {userId = 'user_id', email = 'email'}\n"
        "company_keys = {groupId = 'company_id'}\n[[traits]]\nname = 'copy'\nquery = \"trait('plan')\"\n"
    )
    settings = load(path, {})
    values = {}
    for key in ("plan", "copy"):
        seen = preview(settings, settings.audience(key), as_of=NOON, sample=9, on_page=lambda _: None)
        values[key] = [(member.profile_key, member.value) for member in seen.sample]

    assert values == {"plan": [("u1", '"d"')], "copy": [("u1", '"d"')]}
