"""The marks of a membership database that is copied to another place, and the refusal of one that must not be used.

At every moment exactly one of the two databases can be used:

- While a copy is made, the source keeps its tables locked, and the target names the database it is a copy of. A
  database with that mark is refused, until the source is closed.
- One commit closes the source: it names the new database, and triggers refuse every later write, even by a process that
  was started before, or by another version.
- From that commit on the target may be used. `database copy` removes its mark; if it died before, the first command
  that opens the target sees that the source is closed, and removes it.

A token, made for each copy, distinguishes the target of the last copy from targets of earlier, interrupted ones.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from audience_sync.database_error import MOVED
from audience_sync.errors import AudienceSyncError, CopyUnfinished, DatabaseMoved
from audience_sync.store import backup_mark, schema, settings_table
from audience_sync.store.database import Database, after_commit, connect, display_url

MOVED_TO: Final = "moved_to"  # a setting of a source that is closed: the URL of the new database, without its password
COPIED_FROM: Final = "copied_from"  # a setting of a target that is not released: the URL of its source, likewise
TOKEN: Final = "copy_token"  # noqa: S105 - a setting of both, and not a secret
MARKS: Final = (MOVED_TO, COPIED_FROM, TOKEN)
"""Settings that belong to one database and are not copied."""

FENCE: Final = "audience_sync_moved"
"""The function of the triggers on PostgreSQL, and the beginning of the names of all triggers."""


class Relocation(NamedTuple):
    """The marks of a database; all None where it never was the source or target of a copy that came to its commit."""

    moved_to: str | None
    copied_from: str | None
    token: str | None


def marks_of(database: Database) -> Relocation:
    """Return the marks of a database, also of one without any tables."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table(schema.settings.name):
            return Relocation(None, None, None)
        query = sa.select(schema.settings).where(schema.settings.c.name.in_(MARKS))
        found = {row.name: row.value for row in connection.execute(query)}
    return Relocation(*(found.get(name) for name in MARKS))


def require_current(database: Database) -> None:
    """Refuse a database that was moved, or that is an unfinished copy; release a copy whose source is closed.

    Raises:
        DatabaseMoved: it was moved.
        CopyUnfinished: it is a copy whose source is not closed, or cannot be reached to see that.
    """
    marks = marks_of(database)
    if marks.moved_to is not None:
        raise moved(database, marks.moved_to)
    if marks.copied_from is None:
        return
    if not _is_closed(marks.copied_from, marks.token):
        raise CopyUnfinished(
            f"{display_url(database.engine.url)} is an unfinished copy of {marks.copied_from}",
            hint=f"set database.url to {marks.copied_from}, then run `audience-sync database copy` again to finish it",
        )
    release(database)


def moved(database: Database, target: str) -> DatabaseMoved:
    """Return the refusal of a database that was moved to the one at the URL `target`."""
    return DatabaseMoved(
        f"the membership database {display_url(database.engine.url)} was moved to {target}",
        hint=f"set database.url to {target}",
    )


def close(connection: Connection, *, target: str, token: str) -> None:
    """Close a source for good, when this transaction is committed; afterwards nothing can be written to it.

    Raises:
        AudienceSyncError: the role of PostgreSQL lacks the right to create triggers.
    """
    settings_table.put(connection, MOVED_TO, target)
    settings_table.put(connection, TOKEN, token)
    sentence = f"{MOVED} {target}".replace("'", "''")
    if connection.dialect.name == "sqlite":
        for table in schema.metadata.sorted_tables:
            for event in ("INSERT", "UPDATE", "DELETE"):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER {FENCE}_{table.name}_{event.lower()} BEFORE {event} ON {table.name}"
                    f" BEGIN SELECT RAISE(ABORT, '{sentence}'); END"
                )
        return
    _require_right(connection)
    literal = sentence.replace("%", "%%")  # psycopg takes % for a placeholder
    connection.exec_driver_sql(
        f"CREATE FUNCTION {FENCE}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $fence$ BEGIN RAISE EXCEPTION USING MESSAGE = '{literal}'; END $fence$"
    )
    for table in schema.metadata.sorted_tables:
        connection.exec_driver_sql(
            f"CREATE TRIGGER {FENCE} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table.name}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {FENCE}()"
        )


def _require_right(connection: Connection) -> None:
    """Refuse a role that cannot create the triggers, before anything is copied."""
    query = "SELECT bool_and(has_table_privilege(name, 'TRIGGER')) FROM unnest(CAST(:names AS text[])) AS found(name)"
    if not connection.execute(sa.text(query), {"names": list(schema.metadata.tables)}).scalar():
        role = connection.engine.url.username
        raise AudienceSyncError(
            f"the role {role} cannot close {display_url(connection.engine.url)}: it lacks the TRIGGER right",
            hint="nothing was copied; run the command as the owner of the tables, or run GRANT TRIGGER ON ALL TABLES IN"
            f' SCHEMA public TO "{role}"',
        )


def mark_copy(connection: Connection, *, source: str, token: str) -> None:
    """Mark a target as a copy that must not be used yet."""
    settings_table.put(connection, COPIED_FROM, source)
    settings_table.put(connection, TOKEN, token)


def release(database: Database) -> None:
    """Let a target be used: its source is closed."""
    with database.write() as connection:
        after_commit(connection, backup_mark.keep)
        names = (COPIED_FROM, TOKEN)
        connection.execute(schema.settings.delete().where(schema.settings.c.name.in_(names)))


def _is_closed(source: str, token: str | None) -> bool:
    """Return whether the database at a URL was closed by the copy with this token; False if it cannot be opened."""
    try:
        opened = connect(make_url(source))
    except AudienceSyncError:
        return False
    try:
        marks = marks_of(opened)
    except sa.exc.SQLAlchemyError:
        return False
    finally:
        opened.close()
    return marks.moved_to is not None and marks.token == token
