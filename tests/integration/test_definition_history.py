"""Each run keeps the text of its definition, once, and an audience has a history of versions with their effect."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from audience_sync.config import RetentionTable, load
from audience_sync.core.model import RunState
from audience_sync.store import definition_texts, erasure
from audience_sync.store.database import Database
from audience_sync.sync import Job, sync
from tests.factories import AUDIENCE_KEY, NOON, ORDERS_SQL, Shop, make_run
from tests.syncing import Syncing, people

HEAD = 'source = "shop"\nuser_keys = { userId = "user_id" }\ncompany_keys = { groupId = "company_id" }\n'
NARROW = f"{ORDERS_SQL}\n  AND customer_id < 'u15'"


def versions(syncing: Syncing, *, with_file: bool = False) -> list[dict[str, Any]]:
    """Return the versions of the audience, newest first; with that of the configuration if asked for."""
    audience = syncing.settings.audiences[0]
    configured = (audience.definition_hash, audience.definition_text) if with_file else None
    with syncing.database.read() as connection:
        return list(definition_texts.versions(connection, syncing.audience().id, configured=configured))


def test_versions_with_their_effect(syncing: Syncing) -> None:
    """Each series of runs with one definition, the run that put it into effect, the members and the difference."""
    syncing.configure(guard={"max_exit_percent": 10, "min_members": 1})
    syncing.sync(people(range(10, 20)))
    syncing.sync()
    syncing.configure(guard={"max_exit_percent": 10, "min_members": 1}, sql=NARROW)
    blocked = syncing.sync().run
    assert blocked.state is RunState.BLOCKED
    (waiting, _) = versions(syncing)
    syncing.approve(blocked)
    syncing.configure()
    syncing.sync()

    third, second, first = versions(syncing)

    assert [(one["version"], one["run_id"], one["runs"]) for one in (first, second, third)] == [
        (1, 1, 2),
        (2, 3, 1),
        (3, 4, 1),
    ]
    assert [(one["members_before"], one["members_after"]) for one in (first, second, third)] == [
        (0, 10),
        (10, 5),
        (5, 10),
    ]
    assert (waiting["state"], waiting["members_before"], waiting["members_after"]) == ("blocked", 10, None)
    assert first["text"] == third["text"] == f"{HEAD}\n{ORDERS_SQL}"
    assert first["hash"] == third["hash"] != second["hash"]
    assert first["difference"] is None
    assert second["difference"].splitlines() == [
        "--- version 1",
        "+++ version 2",
        "@@ -3,3 +3,4 @@",
        ' company_keys = { groupId = "company_id" }',
        " ",
        f" {ORDERS_SQL}",
        "+  AND customer_id < 'u15'",
    ]
    assert third["difference"].splitlines()[-1] == "-  AND customer_id < 'u15'"
    assert syncing.query("SELECT count(*) FROM definitions") == [(2,)]


def test_a_failed_definition_is_a_version_and_a_later_success_puts_it_into_effect(syncing: Syncing) -> None:
    """A run of a definition that cannot work says so; the first run that succeeds is the one that counts."""
    syncing.sync(["u1"])
    syncing.shop.execute("ALTER TABLE orders RENAME TO gone")
    syncing.configure(sql=NARROW)
    with pytest.raises(Exception, match="no such table"):
        syncing.sync()
    failed, _ = versions(syncing)
    syncing.shop.execute("ALTER TABLE gone RENAME TO orders")
    syncing.sync()
    worked, _ = versions(syncing)

    assert (failed["run_id"], failed["state"], failed["members_after"], failed["runs"]) == (2, "failed", None, 1)
    assert (worked["run_id"], worked["state"], worked["members_after"], worked["runs"]) == (3, "succeeded", 1, 2)


def test_the_definition_in_the_file_is_the_newest_version(syncing: Syncing) -> None:
    """Before the next sync, the history shows the difference between what is in effect and what was edited."""
    syncing.sync(["u1"])
    assert versions(syncing, with_file=True) == versions(syncing)

    syncing.configure(company_keys={})
    newest, first = versions(syncing, with_file=True)

    assert (newest["version"], newest["state"], newest["run_id"], newest["runs"]) == (2, "new", None, 0)
    assert first["version"] == 1
    assert newest["difference"].splitlines() == [
        "--- version 1",
        "+++ version 2",
        "@@ -1,5 +1,5 @@",
        ' source = "shop"',
        ' user_keys = { userId = "user_id" }',
        '-company_keys = { groupId = "company_id" }',
        "+company_keys = {}",
        " ",
        f" {ORDERS_SQL}",
    ]


def test_runs_from_before_texts_were_stored(syncing: Syncing) -> None:
    """Their versions are there without a text; the next one has its text and nothing to compare it with."""
    with syncing.database.write() as connection:
        make_run(
            connection, audience=AUDIENCE_KEY, state=RunState.RUNNING, definition_hash="old", as_of=0, started_at=0
        )
    syncing.sync(["u1"])
    new, old = versions(syncing)

    assert (old["text"], old["difference"], new["difference"]) == (None, None, None)
    assert new["text"].endswith(ORDERS_SQL)


def test_a_retraction_is_not_a_version(syncing: Syncing) -> None:
    """The key is retired under the definition that it had."""
    syncing.sync(["u1"])
    syncing.retract()

    assert [one["runs"] for one in versions(syncing)] == [1]


def test_texts_that_no_run_names_are_purged(syncing: Syncing) -> None:
    """A held run takes the newest definition in its row: the text that it had before is of no use."""
    syncing.sync(["u1"])
    with syncing.database.write() as connection:
        definition_texts.keep(connection, "held before", "x")
    purged = erasure.purge(syncing.database, RetentionTable(), now_ms=syncing.workspace.clock.now_ms())

    assert purged["definitions"] == 1
    assert [one["text"] for one in versions(syncing)] == [f"{HEAD}\n{ORDERS_SQL}"]


def test_a_purge_does_not_take_the_text_of_a_run_that_starts(database: Database) -> None:
    """A run and its text are one transaction; a purge that comes in between waits for its end."""
    purged: list[int] = []

    def purge() -> None:
        with database.write() as other:
            purged.append(definition_texts.drop_unused(other))

    with database.write() as connection:
        definition_texts.keep(connection, "h", "text")
    thread = threading.Thread(target=purge)
    with database.write() as connection:
        definition_texts.keep(connection, "h", "text")
        definition_texts.keep(connection, "h2", "text 2")
        thread.start()
        thread.join(0.3)
        make_run(connection, definition_hash="h")
        make_run(connection, definition_hash="h2")
    thread.join(30)

    assert purged == [0]


def test_something_that_a_query_uses_is_another_version_with_the_same_text(
    syncing: Syncing, shop: Shop, tmp_path: Path
) -> None:
    """The hash changes, the text does not: the difference is empty, and not missing."""
    shop.set_orders(["u1"])
    path = tmp_path / "config.toml"
    audience = '[[audiences]]\nname = "{}"\nquery = "{}"\n'
    found = []
    for limit in (1, 2):
        path.write_text(
            '[sources.shop]\nurl = "sqlite:///shop.db"\n[sources.shop.events]\n'
            "sql = \"SELECT customer_id, 'Order' AS event, ordered_at AS at FROM orders\"\n"
            'user = "customer_id"\ntimestamp = "at"\n'
            + audience.format("Base", f"event('Order').count() >= {limit}")
            + audience.format("Top", "trait('base') = true")
        )
        settings = load(path, {})
        for one in settings.audiences:
            sync(syncing.workspace, Job(settings=settings, audience=one, as_of=NOON))
        with syncing.database.read() as connection:
            found = [list(definition_texts.versions(connection, number)) for number in (1, 2)]
    base, top = found

    assert [one["difference"] is None or "count() >= 2" in one["difference"] for one in base] == [True, True]
    assert [one["difference"] for one in top] == ["", None]
    assert (
        top[0]["text"]
        == top[1]["text"]
        == (
            'source = "shop"\nuser_keys = { userId = "customer_id" }\ncompany_keys = {}\ntimezone = "UTC"\n\n'
            "trait('base') = true"
        )
    )
