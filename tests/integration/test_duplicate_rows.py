"""Of two rows with one key, the row with more identifiers is used, whatever the order and wherever rows are kept."""

from __future__ import annotations

import itertools
import json

import pytest
import sqlalchemy as sa

from audience_sync import tables
from audience_sync.config import load
from audience_sync.core.keys import Reason
from audience_sync.core.model import Counts
from audience_sync.core.shards import digest, shard_of
from audience_sync.store import reports
from audience_sync.sync import reading, spool
from audience_sync.sync.previewing import preview
from tests.factories import NOON, company_identifiers
from tests.syncing import Syncing, people

pytestmark = pytest.mark.slow_on_postgres

ROWS = [("u1", None), ("u1", "c2"), ("u1", "c1"), ("u1", "")]


@pytest.mark.parametrize("rows", list(itertools.permutations(ROWS))[::5])
def test_the_row_with_a_company_is_used_in_any_order(syncing: Syncing, rows: tuple[tuple[object, ...], ...]) -> None:
    """A row without a company key does not hide one that has it, and of two companies the smaller JSON is used."""
    report = syncing.sync(rows)

    assert report.run.counts == Counts(read=4, entered=1, duplicates=3)
    assert syncing.members() == {"u1": company_identifiers("c1")}
    kept = reports.rejections(syncing.database, run_id=report.run.id)
    assert [(row["reason"], row["row"]) for row in kept] == [
        ("duplicate", '["u1"]'),
        ("duplicate", '["u1"]'),
        ("duplicate", '["u1","{\\"company\\":{\\"groupId\\":\\"c2\\"}}"]'),
    ]


@pytest.mark.parametrize("in_memory", [3, 5000])
def test_rows_in_a_file_give_the_same_members(
    syncing: Syncing, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    """The rule is the same where rows are spooled to disk, and a plan and a preview agree with the sync."""
    monkeypatch.setattr(reading, "IN_MEMORY", in_memory)
    rows = [row for key in people(range(40)) for row in ((key, None), (key, f"c-{key}"))]

    syncing.shop.set_orders(rows)
    plan, changes = syncing.plan()
    seen = preview(syncing.settings, syncing.settings.audiences[0], as_of=NOON, sample=40, on_page=lambda _: None)
    report = syncing.sync()

    expected = {key: company_identifiers(f"c-{key}") for key in people(range(40))}
    assert syncing.members() == expected
    assert {change.profile_key: change.identifiers for change in changes} == expected
    assert {member.profile_key: member.identifiers for member in seen.sample} == expected
    assert plan.counts == report.run.counts == Counts(read=80, entered=40, duplicates=40)
    assert report.rejections == {Reason.DUPLICATE: 40}


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


@pytest.mark.parametrize(("rules", "updated"), [(b"1", 1), (spool._RULES, 0)])
def test_another_rule_reads_every_shard_again(
    syncing: Syncing, monkeypatch: pytest.MonkeyPatch, rules: bytes, updated: int
) -> None:
    """What a version with another rule kept about a shard does not make it pass for unchanged."""
    with monkeypatch.context() as older:
        older.setattr(spool, "_RULES", rules)
        syncing.sync([("u1", "c1")])
    with syncing.database.write() as connection:  # as if that version had used another row
        of_u1 = tables.shards.c.shard == shard_of("u1")
        kept = connection.execute(sa.select(tables.shards.c.digest).where(of_u1)).scalar_one()
        connection.execute(sa.update(tables.memberships).values(identifiers=None))
        changed = digest(["u1"]).hash + bytes(kept)[16:]
        connection.execute(sa.update(tables.shards).where(of_u1).values(digest=changed))

    assert syncing.sync([("u1", "c1")]).run.counts == Counts(read=1, updated=updated, unchanged=1 - updated)


def test_kept_values_do_not_stand_in_for_duplicates(syncing: Syncing) -> None:
    """As many members as rows are not those rows where some stay without a row and some rows are duplicates."""
    sql = "SELECT customer_id AS user_id, company_id AS value FROM orders WHERE ordered_at <= :now"
    syncing.configure(entries="traits", sql=sql, company_keys={}, audience={"on_missing": "keep"})
    stays, twice = [key for key in people(range(3000)) if shard_of(key) == shard_of("u0")][:2]
    syncing.sync([(stays, 1), (twice, 1)])
    rows = [(twice, 1), (twice, 2)]
    syncing.sync(rows)

    report = syncing.sync(rows)

    assert report.run.counts == Counts(read=2, unchanged=1, duplicates=1)
    assert report.rejections == {Reason.DUPLICATE: 1}


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
