"""The current outages: why a destination accepts no events, since when, and when the next attempt is due.

A destination has one row, or none while it accepts events. Every delivering process writes it, and `status`
reads it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.store.schema import PRIMARY_DESTINATION


class OutageKind(StrEnum):
    """Why no events are accepted."""

    UNREACHABLE = "unreachable"  # no answer, or one that asks for another try
    KEY_REFUSED = "key_refused"
    STOPPED = "stopped"  # another server answers, or it refuses everything: a person has to act


@dataclass(frozen=True, kw_only=True)
class Outage:
    """Times are in milliseconds since 1970."""

    kind: OutageKind
    began_at: int  # nothing was accepted since
    since: int  # it has this reason since
    answer: str  # the last one
    next_try_at: int | None  # None: nothing tries by itself


def find(connection: Connection, *, destination: str = PRIMARY_DESTINATION) -> Outage | None:
    """Return the outage of a destination that is under way, if there is one."""
    row = connection.execute(
        sa.text("SELECT kind, began_at, since, answer, next_try_at FROM outage WHERE destination = :d"),
        {"d": destination},
    ).first()
    if row is None:
        return None
    kind, began_at, since, answer, next_try_at = row
    return Outage(kind=OutageKind(kind), began_at=began_at, since=since, answer=answer, next_try_at=next_try_at)


def next_try(connection: Connection, *, destination: str = PRIMARY_DESTINATION) -> int:
    """Return before which time nothing is sent, because an outage is under way; 0 when nothing keeps it back."""
    query = sa.text("SELECT next_try_at FROM outage WHERE destination = :d")
    found: int | None = connection.execute(query, {"d": destination}).scalar()
    return found or 0


def keep(connection: Connection, outage: Outage, *, destination: str = PRIMARY_DESTINATION) -> None:
    """Keep how an outage stands; without a time of the next try, the one that is known stays."""
    connection.execute(
        sa.text(
            "INSERT INTO outage (destination, kind, began_at, since, answer, next_try_at)"
            " VALUES (:d, :kind, :began_at, :since, :answer, :next_try_at)"
            " ON CONFLICT (destination) DO UPDATE SET kind = excluded.kind, began_at = excluded.began_at,"
            " since = excluded.since, answer = excluded.answer,"
            " next_try_at = coalesce(excluded.next_try_at, outage.next_try_at)"
        ),
        {**asdict(outage), "kind": outage.kind.value, "d": destination},
    )


def end(connection: Connection, *, destination: str = PRIMARY_DESTINATION) -> None:
    """Note that a destination accepts events."""
    connection.execute(sa.text("DELETE FROM outage WHERE destination = :d"), {"d": destination})


def note_no_next_try(connection: Connection, *, destination: str = PRIMARY_DESTINATION) -> None:
    """Note that nothing tries by itself any more: the daemon has ended."""
    query = sa.text("UPDATE outage SET next_try_at = NULL WHERE destination = :d")
    connection.execute(query, {"d": destination})
