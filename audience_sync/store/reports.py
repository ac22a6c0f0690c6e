"""Lists for people: current members, runs, changes and rejected rows, and the way lists are read.

Each list is an iterator of records with the fields of the corresponding view. It is read page by page along a primary
key, each page in a short transaction, so a slow reader never blocks a writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.model import ChangeKind, RunKind, from_ms
from audience_sync.segment import timestamps
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.database import Database
from audience_sync.store.memberships import UNWRITTEN, history_from
from audience_sync.store.runs import identifiers_of

MEMBER_COLUMNS = ("audience", "profile_key", "value", "identifiers", "since", "run_id", "generation", "computation")
CHANGE_COLUMNS = ("as_of", "audience", "profile_key", "kind", "value", "identifiers", "run_id", "computation")
RUN_COLUMNS = (
    "id", "audience", "kind", "state", "as_of", "started_at", "finished_at", "members_before", "read", "entered",
    "exited", "updated", "unchanged", "rejected", "duplicates", "resent", "sent", "definition_changed", "reason",
    "approved_at", "computation",
)  # fmt: skip
REJECTION_COLUMNS = ("run_id", "audience", "reason", "profile_key", "row", "detail")

Record: TypeAlias = dict[str, Any]


def iso(milliseconds: int | None) -> str | None:
    """Return an instant as the views show it: ISO 8601 in UTC, with milliseconds."""
    return None if milliseconds is None else timestamps.iso(from_ms(milliseconds))


def members(database: Database, audience: AudienceRow) -> Iterator[Record]:
    """Yield the members of an audience as they are now, or who has a value, by profile key."""
    computation = audience.computation.value

    def page(connection: Connection, last: Record | None) -> list[Record]:
        after = "" if last is None else last["profile_key"]
        rows = connection.execute(
            sa.text(
                f"SELECT m.profile_key, m.value, {identifiers_of('m.identifiers', 'w')}, r.as_of, m.entered_run_id,"
                " w.generation FROM memberships m LEFT JOIN runs r ON r.id = m.entered_run_id"
                " LEFT JOIN runs w ON w.id = m.run_id"
                " WHERE m.audience_id = :a AND m.profile_key > :key ORDER BY m.profile_key LIMIT :n"
            ),
            {"a": audience.id, "key": after, "n": database.tuning.rows_per_page},
        )
        return [
            dict(zip(MEMBER_COLUMNS, (audience.key, key, value, keys, iso(since), *rest, computation), strict=True))
            for key, value, keys, since, *rest in rows
        ]

    return pages(database, page)


def runs(
    database: Database,
    *,
    audience_id: int | None = None,
    state: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> Iterator[Record]:
    """Yield runs, newest first, of one audience, in one state, and as of times from `since_ms` to before `until_ms`."""
    wanted = only({"a.id = :a": audience_id, "v.state = :s": state})
    if period := only({"as_of >= :since": since_ms, "as_of < :until": until_ms}):
        wanted.append(f"v.id IN (SELECT id FROM runs{where(period)})")

    def page(connection: Connection, last: Record | None) -> list[Record]:
        before = only({"v.id < :before": last and last["id"]})
        rows = connection.execute(
            sa.text(
                f"SELECT v.* FROM sync_runs v JOIN audiences a ON a.key = v.audience{where(wanted, before)}"
                " ORDER BY v.id DESC LIMIT :n"
            ),
            {
                "a": audience_id,
                "s": state,
                "since": since_ms,
                "until": until_ms,
                "before": last and last["id"],
                "n": database.tuning.rows_per_page,
            },
        ).mappings()
        return [{**row, "definition_changed": bool(row["definition_changed"])} for row in rows]

    return pages(database, page)


def changes(
    database: Database,
    *,
    audience_id: int | None = None,
    run_id: int | None = None,
    kind: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> Iterator[Record]:
    """Yield who entered, exited or was updated, newest runs first; as of times from `since_ms` to before `until_ms`."""
    wanted = only(
        {
            "r.audience_id = :a": audience_id,
            "r.id = :r": run_id,
            "r.as_of >= :since": since_ms,
            "r.as_of < :until": until_ms,
        }
    )

    def page_of_runs(connection: Connection, last: Record | None) -> list[Record]:
        before = only({"r.id < :before": last and last["id"]})
        rows = connection.execute(
            sa.text(
                "SELECT r.id, r.as_of, r.kind, a.key, a.computation"
                " FROM runs r JOIN audiences a ON a.id = r.audience_id"
                f"{where(wanted, before, ['r.entered + r.exited + r.updated > 0'])} ORDER BY r.id DESC LIMIT :n"
            ),
            {
                "a": audience_id,
                "r": run_id,
                "since": since_ms,
                "until": until_ms,
                "before": last and last["id"],
                "n": database.tuning.rows_per_page,
            },
        ).mappings()
        return [dict(row) for row in rows]

    for run in pages(database, page_of_runs):
        yield from _changes_of(database, run, kind)


def _changes_of(database: Database, run: Record, kind: str | None) -> Iterator[Record]:
    as_of = iso(run["as_of"])
    wanted = where(["c.run_id = r.id", "r.id = :r", "c.profile_key > :key"], only({"c.kind = :kind": kind}))
    written = f"SELECT c.profile_key, c.kind, c.value, {identifiers_of('c.identifiers', 'r')}"
    halves = [f"{written} FROM runs r CROSS JOIN changes c{wanted}"]
    if run["kind"] == RunKind.INITIAL and kind in {None, ChangeKind.ENTERED}:
        halves.append(
            f"SELECT m.profile_key, '{ChangeKind.ENTERED}', m.value, {identifiers_of('m.identifiers', 'r')}"
            " FROM runs r CROSS JOIN memberships m"
            f" WHERE r.id = :r AND m.audience_id = r.audience_id AND m.profile_key > :key AND {UNWRITTEN}"
        )
    # Each half by itself, along its key: together they would be sorted whole for every page.
    query = " UNION ALL ".join(f"SELECT * FROM ({half} ORDER BY profile_key LIMIT :n) AS half" for half in halves)

    def page(connection: Connection, last: Record | None) -> list[Record]:
        after = "" if last is None else last["profile_key"]
        rows = connection.execute(
            sa.text(f"{query} ORDER BY profile_key LIMIT :n"),
            {
                "r": run["id"],
                "kind": kind,
                "key": after,
                "n": database.tuning.rows_per_page,
                "history_from": history_from(connection),
            },
        )
        of_run = (run["id"], run["computation"])
        return [dict(zip(CHANGE_COLUMNS, (as_of, run["key"], *row, *of_run), strict=True)) for row in rows]

    return pages(database, page)


def rejections(database: Database, *, audience_id: int | None = None, run_id: int | None = None) -> Iterator[Record]:
    """Yield the samples of rejected rows, newest runs first."""
    wanted = only({"r.audience_id = :a": audience_id, "j.run_id = :r": run_id})

    def page(connection: Connection, last: Record | None) -> list[Record]:
        on = ["(j.run_id < :last_run OR (j.run_id = :last_run AND j.position > :position))"] if last else []
        place = {"last_run": last["run_id"], "position": last["position"]} if last else {}
        rows = connection.execute(
            sa.text(
                "SELECT j.run_id, j.position, a.key AS audience, j.reason, j.profile_key, j.row, j.detail"
                " FROM rejections j JOIN runs r ON r.id = j.run_id JOIN audiences a ON a.id = r.audience_id"
                f"{where(wanted, on)} ORDER BY j.run_id DESC, j.position LIMIT :n"
            ),
            {"a": audience_id, "r": run_id, **place, "n": database.tuning.rows_per_page},
        ).mappings()
        return [dict(row) for row in rows]

    return pages(database, page)


def pages(database: Database, page: Callable[[Connection, Record | None], list[Record]]) -> Iterator[Record]:
    """Yield the records of page after page; each is asked for with the last record of the one before."""
    last: Record | None = None
    while True:
        with database.read() as connection:
            records = page(connection, last)
        yield from records
        if len(records) < database.tuning.rows_per_page:
            return
        last = records[-1]


def only(conditions: dict[str, object]) -> list[str]:
    """Return the conditions whose value was given."""
    return [condition for condition, value in conditions.items() if value is not None]


def where(*conditions: list[str]) -> str:
    """Return the clause that asks for all of some conditions; nothing where there are none."""
    everything = [one for some in conditions for one in some]
    return f" WHERE {' AND '.join(everything)}" if everything else ""
