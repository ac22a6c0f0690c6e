"""What the whole database is bound to (identity, environment), and the numbers it issues (generations)."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.errors import BindingRefused
from audience_sync.store import backup_mark
from audience_sync.store.database import after_commit

MOST_RESERVED = 3_000  # requests: a minute at the default rate
FURTHEST_RESERVED = 600_000_000  # microseconds: at a low rate so many requests would take hours


def get(connection: Connection, name: str) -> str | None:
    """Return a setting kept in the database, or None."""
    value: str | None = connection.execute(sa.text("SELECT value FROM settings WHERE name = :n"), {"n": name}).scalar()
    return value


def locked(connection: Connection, name: str) -> int:
    """Return a numeric setting that is always there; others who want it wait until this transaction ends."""
    lock = "" if connection.dialect.name == "sqlite" else " FOR UPDATE"  # a SQLite writer is alone anyway
    value = connection.execute(sa.text(f"SELECT value FROM settings WHERE name = :n{lock}"), {"n": name}).scalar_one()
    return int(value)


def count_on(connection: Connection, name: str, *, least: int, step: int) -> int:
    """Return `max(number, least)` of a numeric setting and keep that plus `step`; others wait their turn."""
    number = max(locked(connection, name), least)
    put(connection, name, str(number + step))
    return number


def put(connection: Connection, name: str, value: str) -> None:
    """Keep a setting."""
    connection.execute(
        sa.text(
            "INSERT INTO settings (name, value) VALUES (:n, :v) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ),
        {"n": name, "v": value},
    )


def bind_identity(connection: Connection, identity: str) -> None:
    """Keep the identity at the first sync, and refuse another one ever after.

    Raises:
        BindingRefused: the database has another identity.
    """
    locked(connection, "generation")  # of two that bind at one moment the second sees what the first has bound
    check_identity(connection, identity)
    put(connection, "identity", identity)


def check_identity(connection: Connection, identity: str) -> None:
    """Refuse another identity than the one that is bound, if one is.

    Raises:
        BindingRefused: the database has another identity.
    """
    bound = get(connection, "identity")
    if bound not in (None, identity):
        raise BindingRefused(
            f"this database knows people by {bound!r}, the configuration says {identity!r}",
            hint=f'set identity = "{bound}", or give the new identity a new [database] url',
        )


def bind_environment(connection: Connection, told: str | None, *, label: str, destination: str) -> str:
    """Keep the destination's environment at the first delivery, refuse another one ever after, and return it.

    `told` is the environment of the API key; a key that cannot read it has the file's `label`, or nothing to compare.

    Raises:
        BindingRefused: the database belongs to another environment.
    """
    locked(connection, "generation")  # as for the identity
    bound = environment(connection)
    wanted = told or label or bound
    if bound and bound != wanted:
        raise BindingRefused(
            f"this database belongs to the {destination} environment {bound!r}, the API key to {wanted!r}",
            hint="use the key of that environment, or another [database] url for this one",
        )
    put(connection, "environment", wanted)
    return wanted


def environment(connection: Connection) -> str:
    """Return the environment that is bound, or "" before the first delivery."""
    return get(connection, "environment") or ""


def next_generation(connection: Connection, now_ms: int) -> int:
    """Issue a generation: greater than every one before, and about the time in milliseconds.

    The mark next to a SQLite database is raised to it once this transaction is committed.

    Raises:
        DatabaseOlder: greater ones were issued before: the database comes from a backup.
        MarkUnusable: the mark cannot be read.
    """
    backup_mark.require_not_behind(connection)
    backup_mark.begin(connection, now_ms)
    after_commit(connection, backup_mark.keep)
    return count_on(connection, "generation", least=now_ms, step=1)


def advance(connection: Connection, now_ms: int) -> None:
    """Make this commit newer than all before it for the high-water mark, where there is one; see `store.backup_mark`.

    Raises:
        DatabaseOlder: the database comes from a backup.
        MarkUnusable: the mark cannot be read.
    """
    if backup_mark.path_of(connection.engine) is not None:  # elsewhere all writers would wait for this one row
        next_generation(connection, now_ms)


def reserve_requests(connection: Connection, *, now_us: int, requests: int, per_second: float) -> int:
    """Reserve the next `requests` moments at the shared rate; return the first, in microseconds since 1970.

    Every process on this database draws from the same row, so the rate is that of all of them together. A clock that
    was ahead costs at most the time of `MOST_RESERVED` requests, and ten minutes: moments further off are taken for a
    mistake.
    """
    spacing = round(1_000_000 / per_second)
    furthest = min(MOST_RESERVED * spacing, max(FURTHEST_RESERVED, requests * spacing))
    booked = count_on(connection, "request_at_us", least=now_us, step=requests * spacing)
    if booked > now_us + furthest:
        put(connection, "request_at_us", str(now_us + requests * spacing))
        return now_us
    return booked
