"""The audiences and computed traits in the database: one permanent row for each key ever used."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.config import Audience, Settings
from audience_sync.core.model import Computation
from audience_sync.errors import ConfigError, UnknownName


class AudienceRow(NamedTuple):
    """One row of `audiences`."""

    id: int
    key: str
    name: str
    state: str  # active, paused or retired
    definition_hash: str | None
    members: int
    completed: bool
    applied_as_of: int | None
    next_due_at: int | None
    declared_at: int | None
    created_at: int
    computation: Computation

    def is_edited(self, definition_hash: str) -> bool:
        """Return whether the definition in the file is not the one that was accepted."""
        return self.definition_hash not in (None, definition_hash)


_COLUMNS = ", ".join(AudienceRow._fields)


def register(connection: Connection, *, key: str, name: str, now_ms: int, computation: Computation) -> AudienceRow:
    """Return the row of an audience or computed trait, made at its first sync; its key is frozen from then on.

    Raises:
        ConfigError: the key was synced as the other of the two before.
    """
    connection.execute(
        sa.text(
            "INSERT INTO audiences (key, name, state, created_at, computation) VALUES (:k, :n, 'active', :now, :c)"
            " ON CONFLICT (key) DO UPDATE SET name = excluded.name WHERE audiences.computation = excluded.computation"
        ),
        {"k": key, "n": name, "now": now_ms, "c": computation},
    )
    row = by_key(connection, key)
    require_computation(row, computation)
    return row


def require_not_retired(row: AudienceRow) -> None:
    """Refuse a key that was retracted.

    Raises:
        ConfigError: it was.
    """
    if row.state == "retired":
        raise ConfigError(
            f"the key {row.key!r} is retired and cannot be used again",
            hint="use another name or key in the configuration",
        )


def require_computation(row: AudienceRow, computation: Computation) -> None:
    """Refuse to take an audience for a computed trait, or the other way round.

    Raises:
        ConfigError: the key was synced as the other of the two before.
    """
    if row.computation is not computation:
        raise ConfigError(
            f"{row.key!r} was previously synced as {row.computation.one}",
            hint=f"use another name or key for the {computation.value}",
        )


def exit_value(audience_id: str) -> str:
    """Return SQL for the value that is sent for a profile that is not a member, or has no value, in this audience."""
    cases = " ".join(f"WHEN '{computation}' THEN '{computation.exit_value}'" for computation in Computation)
    return f"(SELECT CASE computation {cases} END FROM audiences x WHERE x.id = {audience_id})"


def find(connection: Connection, key: str) -> AudienceRow | None:
    """Return the row of an audience, or None if it was never synced."""
    row = connection.execute(sa.text(f"SELECT {_COLUMNS} FROM audiences WHERE key = :k"), {"k": key}).one_or_none()
    return _row(row) if row else None


def by_key(connection: Connection, key: str) -> AudienceRow:
    """Return the row of an audience.

    Raises:
        UnknownName: no audience of this key was ever synced.
    """
    row = find(connection, key)
    if row is None:
        raise UnknownName(
            f"there is no audience {key!r} in the database",
            hint="list them with `audience-sync audiences`; an audience is added by its first sync",
        )
    return row


def by_id(connection: Connection, audience_id: int) -> AudienceRow:
    """Return the row of an audience by its id."""
    row = connection.execute(sa.text(f"SELECT {_COLUMNS} FROM audiences WHERE id = :i"), {"i": audience_id}).one()
    return _row(row)


def every(connection: Connection) -> list[AudienceRow]:
    """Return all audiences, by key."""
    return [_row(row) for row in connection.execute(sa.text(f"SELECT {_COLUMNS} FROM audiences ORDER BY key"))]


def computations(connection: Connection) -> dict[int, Computation]:
    """Return what is computed, by the id of each."""
    rows = connection.execute(sa.text("SELECT id, computation FROM audiences"))
    return {audience_id: Computation(computation) for audience_id, computation in rows}


def set_state(connection: Connection, audience_id: int, state: str) -> None:
    """Make an audience active, paused or retired; a retired one stays so."""
    connection.execute(
        sa.text("UPDATE audiences SET state = :s WHERE id = :i AND state <> 'retired'"),
        {"s": state, "i": audience_id},
    )


def add_members(connection: Connection, audience_id: int, difference: int) -> None:
    """Keep the count of members, in the transaction that changes them."""
    connection.execute(
        sa.text("UPDATE audiences SET members = members + :d WHERE id = :i"), {"d": difference, "i": audience_id}
    )


def set_next_due(connection: Connection, audience_id: int, due_ms: int | None) -> None:
    """Keep when the daemon syncs an audience next."""
    connection.execute(sa.text("UPDATE audiences SET next_due_at = :d WHERE id = :i"), {"d": due_ms, "i": audience_id})


def put_off(connection: Connection, key: str, due_ms: int, *, seen: int | None) -> None:
    """Keep when the daemon syncs an audience next, unless somebody has changed that since it was seen."""
    connection.execute(
        sa.text(
            "UPDATE audiences SET next_due_at = :d WHERE key = :k"
            " AND (next_due_at = :seen OR (next_due_at IS NULL AND :unknown))"
        ),
        {"d": due_ms, "k": key, "seen": seen, "unknown": seen is None},
    )


def due(connection: Connection, now_ms: int) -> dict[str, int]:
    """Return the audiences that are due, by key, and since when."""
    rows = connection.execute(
        sa.text("SELECT key, next_due_at FROM audiences WHERE next_due_at <= :now"), {"now": now_ms}
    )
    return {row.key: row.next_due_at for row in rows}


def set_declared(connection: Connection, audience_id: int, now_ms: int) -> None:
    """Keep that Schematic knows the type of this audience's trait."""
    connection.execute(sa.text("UPDATE audiences SET declared_at = :d WHERE id = :i"), {"d": now_ms, "i": audience_id})


def undeclared(connection: Connection) -> list[AudienceRow]:
    """Return the audiences with open rows whose trait was never declared."""
    return [
        _row(row)
        for row in connection.execute(
            sa.text(
                f"SELECT {_COLUMNS} FROM audiences a WHERE declared_at IS NULL"
                " AND EXISTS (SELECT 1 FROM outbox o WHERE o.audience_id = a.id AND o.dead_reason IS NULL) ORDER BY key"
            )
        )
    ]


def _row(row: Sequence[Any]) -> AudienceRow:
    return AudienceRow._make([*row[:-1], Computation(row[-1])])


def rename_warnings(
    settings: Settings, chosen: Iterable[Audience], known: Sequence[AudienceRow]
) -> Iterator[tuple[Audience, str, str]]:
    """Yield those of some audiences that were renamed, what happens to each, and what to do."""
    keys = {audience.key for audience in settings.audiences}
    for audience in chosen:
        if (before := _renamed_from(audience, known, keys=keys)) is not None:
            yield audience, *_rename_warning(audience, before)


def _renamed_from(audience: Audience, known: Sequence[AudienceRow], *, keys: Collection[str]) -> AudienceRow | None:
    """Return what an audience was before it was renamed: an orphan with its definition, else with its name.

    `keys` are those of the file. None for an audience that has completed a sync under its own key.
    """
    if any(row.key == audience.key and row.completed for row in known):
        return None
    orphans = [
        row
        for row in known
        if row.key not in keys and row.state != "retired" and row.computation is audience.computation
    ]
    same = (row for row in orphans if row.definition_hash == audience.definition_hash)
    return next(same, next((row for row in orphans if row.name == audience.name), None))


def _rename_warning(audience: Audience, before: AudienceRow) -> tuple[str, str]:
    """Return what happens to an audience that was renamed, and what to do."""
    sentence = (
        f"was previously synced as {before.key}: a sync sends the new trait {audience.key} to every member, and"
        f" the {before.members:,} members of {before.key} keep the old trait"
    )
    hint = f'to continue the old trait, set key = "{before.key}"; to end it, run `audience-sync retract {before.key}`'
    return sentence, hint
