"""Explain a failure of the membership database: one sentence with the location, and the remedy.

Failures that this program causes itself, such as a violated constraint, are bugs and are not explained here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL

from audience_sync.errors import AudienceSyncError

NOT_UTF8: Final = "Could not decode to UTF-8"
MOVED: Final = "this database was moved to"
"""The beginning of the sentence with which the triggers of a database that was moved refuse every write."""
NOTHING_LOST: Final = "nothing was lost; try again"
_SQLITE: Final[Mapping[str, str]] = {
    "SQLITE_BUSY": "nothing was lost; another program has locked the file: close that program, then try again",
    "SQLITE_LOCKED": "nothing was lost; another program has locked the file: close that program, then try again",
    "SQLITE_FULL": "nothing was lost; free disk space in {folder}",
    "SQLITE_IOERR": "nothing was lost; check the disk that contains {folder}",
    "SQLITE_READONLY": "make {file} and its folder writable by this user",
    "SQLITE_PERM": "make {file} and its folder writable by this user",
    "SQLITE_CANTOPEN": "make {file} and its folder readable and writable by this user",
    "SQLITE_AUTH": "make {file} and its folder readable and writable by this user",
    "SQLITE_CORRUPT": (
        "restore the file from a backup, then run `audience-sync sync --resync --force` to repair Schematic"
    ),
    "SQLITE_NOTADB": "check database.url: the file is not a SQLite database",
}
"""The remedy for each primary error of SQLite."""
_POSTGRES: Final[Mapping[str, str]] = {
    "42501": "grant {role} its rights: GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"
    " GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};"
    " GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
    "42P01": "restore the database from a backup: something other than audience-sync removed the table or view",
    "25006": "connect to the primary server: this one is a replica or its transactions are read-only",
    "3D000": "create the database, or check database.url",
    "28000": "check the user and password in database.url, and the server's pg_hba.conf",
    "28P01": "check the user and password in database.url",
    "53100": "nothing was lost; free disk space on the server",
    "53300": "nothing was lost; close connections or raise max_connections on the server",
}
"""The remedy for each SQLSTATE of PostgreSQL that has one of its own."""
_FATAL: Final[Mapping[str, str]] = {
    "does not exist": "check the user and the database name in database.url",
    "authentication failed": "check the user and password in database.url",
}
"""The remedy for what a server says to somebody who connects: libpq passes on no SQLSTATE then."""
_DAMAGED: Final[Mapping[str, str]] = {
    MOVED: "set database.url to the new database, then start the service again",
    "no such table": "restore the file from a backup: something other than audience-sync removed the table or view",
    NOT_UTF8: "restore the file from a backup: something other than audience-sync wrote to it; `audience-sync check"
    " --deep` shows the affected audience",
}
"""The remedy for what a database says that somebody else has changed, or that was moved."""
_CLOSED: Final = "server closed the connection unexpectedly"  # of libpq, followed by guesses
_AWAY: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


def explain(error: sa.exc.SQLAlchemyError, url: URL) -> AudienceSyncError | None:
    """Return a failure of the database at `url` as a sentence; None when a person cannot do anything about it."""
    remedy = _remedy(error, url)
    if remedy is None and not isinstance(error, _AWAY):
        return None
    return AudienceSyncError(
        f"the membership database {shown(url)} failed: {first_line(error)}", hint=remedy or NOTHING_LOST
    )


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn a failure of the database at `url` into a sentence with its remedy, where a person can do something."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        known = explain(error, url)
        if known is None:
            raise
        raise known from error


def is_away(error: sa.exc.SQLAlchemyError) -> bool:
    """Return whether the database cannot do its work now, or refuses it: everything that is not a bug of ours."""
    is_lost = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
    return is_lost or isinstance(error, _AWAY) or _template(error) is not None


def shown(url: URL) -> str:
    """Return a database URL as people may see it: no password, and of its query, which may hold one, only the host."""
    places = {name: value for name, value in url.query.items() if name in {"host", "port"}}
    text = url.set(query=places).render_as_string(hide_password=True).replace("%2F", "/")
    return text if url.password else text.replace(":***@", "@", 1)  # an empty password is none


def is_lock_timeout(error: sa.exc.DBAPIError) -> bool:
    """Return whether Postgres gave up waiting for a lock that another transaction holds."""
    return getattr(error.orig, "sqlstate", None) == "55P03"


def is_busy(error: sa.exc.DBAPIError) -> bool:
    """Return whether waiting for a lock that another process holds took too long."""
    return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY or is_lock_timeout(error)


def first_line(error: BaseException) -> str:
    """Return the first line of what a database driver says, without SQLAlchemy's additions or parameters."""
    origin = getattr(error, "orig", None) or error
    if _CLOSED in str(origin):
        return "the server closed the connection"
    if NOT_UTF8 in str(origin):  # the driver quotes the whole expression, and the text
        return f"{NOT_UTF8}: a row has bytes that are not valid text"
    return str(origin).strip().partition("\n")[0] or type(origin).__name__


def _remedy(error: sa.exc.SQLAlchemyError, url: URL) -> str | None:
    template = _template(error)
    if template is None:
        return None
    file = Path(url.database or "")
    role = f'"{url.username}"' if url.username else "the role"
    schema = _schema(first_line(error))
    return template.format(file=file, folder=file.parent, role=role, schema=schema)


def _template(error: sa.exc.SQLAlchemyError) -> str | None:
    """Return the remedy for what a driver says, with names to be filled in."""
    origin = getattr(error, "orig", None)
    primary = "_".join(str(getattr(origin, "sqlite_errorname", "")).split("_")[:2])  # SQLITE_READONLY_DBMOVED
    known = _SQLITE.get(primary) or _POSTGRES.get(getattr(origin, "sqlstate", None) or "")
    if known is not None or not isinstance(error, sa.exc.DBAPIError):
        return known
    others = _FATAL if "FATAL" in str(origin) else _DAMAGED
    return next((remedy for said, remedy in others.items() if said in str(origin)), None)


def _schema(said: str) -> str:
    """Return the schema that a refusal names, or the usual one."""
    return said.partition("for schema ")[2].partition("\n")[0] or "public"
