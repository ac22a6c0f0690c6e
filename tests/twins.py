"""Places that begin alike, and what is compared when one of them was disturbed and another was not.

Left out of the comparison is what may differ: ids and generations of runs, times, and how events are put into batches.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from audience_sync.sandbox.ledger import EventFilter
from tests.acceptance.running import Place, open_place

Rows: TypeAlias = list[tuple[Any, ...]]
Told: TypeAlias = dict[tuple[str, str], list[Any]]
"""What Schematic was told, in order, of each profile: of its audiences, and by its forwarded events."""

STEP = "step"  # a trait that every forwarded identify event has; changes make no track events


@contextmanager
def copy_of(origin: Place, folder: Path) -> Iterator[Place]:
    """Open a copy of a place, with a membership database of its own, in a folder that is to be made."""
    # Nobody may be in a database that is copied: Postgres refuses, and SQLite loses its locks when the file is closed.
    origin.database.close()
    shutil.copytree(origin.folder, folder, ignore=shutil.ignore_patterns("*.txt"))
    if origin.database.is_sqlite:
        with open_place(
            folder, f"sqlite:///{folder / Path(make_url(origin.database_url).database or '').name}"
        ) as place:
            yield place
        return
    url, name = make_url(origin.database_url), f"twin_{uuid4().hex}"
    _administer(url, f"CREATE DATABASE {name} TEMPLATE {url.database}")
    try:
        with open_place(folder, url.set(database=name).render_as_string(hide_password=False)) as place:
            yield place
    finally:
        _administer(url, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(url: sa.URL, statement: str) -> None:
    engine = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def leftovers(place: Place) -> dict[str, Rows]:
    """Return what is not done, by table: rows that wait or are dead, and what runs have staged. Nothing in the end."""
    tables = ("outbox", "events", "staged")
    found = {table: place.rows(f"SELECT * FROM {table}") for table in tables}
    found["batches"] = place.rows("SELECT id, events FROM batches WHERE status = 'open'")
    found["runs"] = place.rows("SELECT id, state FROM runs WHERE state IN ('running', 'applying', 'blocked')")
    return {table: rows for table, rows in found.items() if rows}


def contradictions(place: Place) -> Rows:
    """Return where the database contradicts itself: what runs counted, and since when people are members."""
    counted = place.rows("SELECT id, entered, exited, updated FROM runs WHERE state = 'succeeded'")
    changes = {
        (run, kind): n for run, kind, n in place.rows("SELECT run_id, kind, count(*) FROM all_changes GROUP BY 1, 2")
    }
    kinds = ("entered", "exited", "updated")
    wrong = [row for row in counted if row[1:] != tuple(changes.get((row[0], kind), 0) for kind in kinds)]
    return wrong + place.rows(
        "SELECT m.audience_id, m.profile_key, m.entered_run_id FROM memberships m WHERE m.entered_run_id <>"
        " (SELECT max(c.run_id) FROM all_changes c JOIN runs r ON r.id = c.run_id WHERE r.audience_id = m.audience_id"
        "  AND c.profile_key = m.profile_key AND c.kind = 'entered')"
    )


def known(place: Place) -> dict[str, object]:
    """Return what the database and Schematic know in the end."""
    history: dict[tuple[str, str], Rows] = defaultdict(list)
    for audience, profile, *change in place.rows(
        "SELECT audience, profile_key, kind, identifiers, value FROM membership_changes ORDER BY run_id"
    ):
        history[audience, profile].append(tuple(change))
    queries = {
        "audiences": "SELECT key, state, members, completed, computation FROM audiences",
        "members": "SELECT audience, profile_key, identifiers, value FROM current_members",
        "digests": (
            "SELECT a.key, d.version, d.members, d.total FROM digests d JOIN audiences a ON a.id = d.audience_id"
            " WHERE d.run_id = 0 AND d.members > 0"
        ),
        "taken": "SELECT message_id FROM message_ids",
        "unsent": "SELECT reason, type, count FROM event_counts",
    }
    found: dict[str, object] = {name: _sorted(place, query) for name, query in queries.items()}
    return {**found, "history": dict(history), "traits": place.traits()}


def settled(place: Place) -> dict[str, Rows]:
    """Return what was written down of deliveries: how many values were sent, and every event that was accepted."""
    return {
        "sent": _sorted(place, "SELECT audience, sum(sent) FROM sync_runs GROUP BY 1"),
        "deliveries": _sorted(place, "SELECT profile_key, traits, mapping, message_id, status FROM sent_deliveries"),
    }


def _sorted(place: Place, query: str) -> Rows:
    return sorted(place.rows(query), key=repr)


def told(place: Place) -> Told:
    """Return the events that Schematic took, in order; those it knew already by their keys are left out."""
    found: Told = defaultdict(list)
    for event in place.sandbox.ledger.events(EventFilter(statuses=["processed", "failed"])):
        body: Any = event.body
        keys = body.get("keys") or body["user"]
        lane = "forwarded" if event.type == "track" or STEP in body["traits"] else "changes"
        found[keys["userId"], lane].append([event.type, event.error_message, json.dumps(body, sort_keys=True)])
    return found


def values(place: Place) -> Told:
    """Return the values that Schematic took of each profile and trait in order, each once while it stays the same."""
    found: Told = defaultdict(list)
    for (profile, lane), events in told(place).items():
        for _, _, text in events:
            for trait, value in json.loads(text)["traits"].items() if lane == "changes" else ():
                seen = found[profile, trait]
                if not seen or seen[-1] != value:
                    seen.append(value)
    return found


def forwarded(place: Place) -> Told:
    """Return what `told` returns, of forwarded events alone."""
    return {of: events for of, events in told(place).items() if of[1] == "forwarded"}
