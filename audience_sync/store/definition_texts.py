"""The texts of definitions: one row for each distinct one that a run evaluated, and the versions of an audience.

A run has the hash of its definition (`runs.definition_hash`); a text has one row however many runs evaluated it.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import unified_diff
from itertools import groupby
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.model import RunState
from audience_sync.store.reports import Record, iso

VERSION_COLUMNS = (
    "version", "since", "run_id", "state", "members_before", "members_after", "runs", "hash", "text", "difference",
)  # fmt: skip


def keep(connection: Connection, definition_hash: str, text: str) -> None:
    """Store the text of a definition, in the transaction that starts its run."""
    connection.execute(
        sa.text("INSERT INTO definitions (hash, text) VALUES (:h, :t) ON CONFLICT (hash) DO NOTHING"),
        {"h": definition_hash, "t": text},
    )


def drop_unused(connection: Connection) -> int:
    """Delete the texts that no run names any more; return how many."""
    if connection.dialect.name != "sqlite":  # runs that start now have inserted their text, or wait to do so
        connection.execute(sa.text("LOCK TABLE definitions IN EXCLUSIVE MODE"))
    return connection.execute(
        sa.text(
            "DELETE FROM definitions WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.definition_hash = definitions.hash)"
        )
    ).rowcount


class VersionRun(NamedTuple):
    """The facts of a run that are in the history of its definition."""

    id: int
    hash: str
    state: str
    started_at: int
    members_before: int
    entered: int
    exited: int


def versions(
    connection: Connection, audience_id: int, *, configured: tuple[str, str] | None = None
) -> Iterator[Record]:
    """Return the versions of an audience's definition, newest first, as records with `VERSION_COLUMNS`.

    A version is a series of runs with one definition. `run_id` is the run that put it into effect: the first that
    succeeded, else the first. Members are those before and after that run; after it is None unless it succeeded. `text`
    is None for runs from before texts were stored, and `difference`, a unified diff, is None where one of the texts is.

    `configured` is the hash and text of the definition in the configuration; if no run has evaluated it yet, it is the
    newest version, with the state `new`.
    """
    rows = connection.execute(
        sa.text(
            "SELECT id, definition_hash, state, started_at, members_before, entered, exited FROM runs"
            " WHERE audience_id = :a AND kind <> 'retract' ORDER BY id"
        ),
        {"a": audience_id},
    ).all()
    texts = dict(
        connection.execute(
            sa.text(
                "SELECT hash, text FROM definitions WHERE hash IN"
                " (SELECT definition_hash FROM runs WHERE audience_id = :a)"
            ),
            {"a": audience_id},
        ).all()
    )
    found = [_version(list(some)) for _, some in groupby((VersionRun(*row) for row in rows), lambda run: run.hash)]
    if configured is not None and (not found or found[-1]["hash"] != configured[0]):
        texts[configured[0]] = configured[1]
        unsynced = dict.fromkeys(VERSION_COLUMNS) | {"state": "new", "runs": 0, "hash": configured[0]}
        found.append(unsynced)
    for number, one in enumerate(found, 1):
        one |= {"version": number, "text": texts.get(one["hash"])}
    for before, one in zip([None, *found], found, strict=False):
        one["difference"] = None if before is None else _difference(before, one)
    return reversed(found)


def _version(runs: list[VersionRun]) -> Record:
    run = next((one for one in runs if one.state == RunState.SUCCEEDED), runs[0])
    has_succeeded = run.state == RunState.SUCCEEDED
    return {
        "since": iso(run.started_at),
        "run_id": run.id,
        "state": run.state,
        "members_before": run.members_before,
        "members_after": run.members_before + run.entered - run.exited if has_succeeded else None,
        "runs": len(runs),
        "hash": run.hash,
    }


def _difference(before: Record, after: Record) -> str | None:
    """Return what distinguishes two versions, as a unified diff; "" if their texts are equal."""
    if before["text"] is None or after["text"] is None:
        return None
    old, new = (one["text"].splitlines() for one in (before, after))
    names = (f"version {before['version']}", f"version {after['version']}")
    return "\n".join(unified_diff(old, new, *names, lineterm=""))
