"""Database URLs: expanded, checked, made absolute, and never shown with what they keep secret.

The membership database has two dialects; a source may be anything that SQLAlchemy can open. A relative file is resolved
once, here, so that a command means the same database wherever it is started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationInfo
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from audience_sync.config.references import expand
from audience_sync.database_error import shown

DATABASE_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
FILE_DIALECTS = ("sqlite", "duckdb")

_POSTGRES = re.compile(r"\Apostgres(?:ql)?(?:\+\w+)?(?=://)")  # whatever driver it names: psycopg is the one we use
_FILE_ONLY = re.compile(r"\A(sqlite|duckdb)(\+\w+)?:(?!//)")  # sqlite:shop.db
_NO_FILE = re.compile(r":|file:|md:|motherduck:")  # ":memory:", a URI, a database at MotherDuck
_USER_INFO = re.compile(r"[^:/?#]+://([^/?#]*)@")


@dataclass(frozen=True, repr=False)
class SecretUrl:
    """A database URL that shows neither its password nor, of its query, more than the host."""

    _url: URL

    def get_secret_value(self) -> URL:
        """Return the whole URL, for `create_engine` and for nothing that is printed."""
        return self._url

    def __str__(self) -> str:
        return shown(self._url)

    def __repr__(self) -> str:
        return f"SecretUrl('{self}')"


@dataclass(frozen=True)
class Place:
    """Where a configuration file stands: its folder, and the environment it is read in."""

    folder: Path
    environ: Mapping[str, str] = field(repr=False)

    @property
    def state_folder(self) -> Path:
        """Return where the membership database lies: systemd's first state directory, else next to the file."""
        first = self.environ.get("STATE_DIRECTORY", "").split(":")[0]
        return Path(first) if first else self.folder

    @classmethod
    def of(cls, info: ValidationInfo) -> Place:
        """Return the place that validation was given, or the working directory without any variables."""
        return info.context if isinstance(info.context, cls) else cls(Path.cwd(), {})


def database_url(value: object, info: ValidationInfo) -> SecretUrl:
    """Return the URL of the membership database, its file absolute; raise ValueError if it cannot be one."""
    if isinstance(value, SecretUrl):
        return value
    place = Place.of(info)
    url = _parse(value, place)
    if url.drivername not in DATABASE_DRIVERS:
        raise ValueError("must begin with `sqlite:///` or `postgresql://`")
    if url.get_backend_name() != "sqlite":
        return SecretUrl(url)
    if not url.database or ":memory:" in url.database or url.database.startswith("file:"):
        raise ValueError("must name a file, as in `sqlite:///audience_sync.db`: memberships outlive the process")
    return SecretUrl(_absolute(url, place.state_folder))


def source_url(value: object, info: ValidationInfo) -> SecretUrl:
    """Return the URL of a source, its file, if it has one, absolute; raise ValueError if it cannot be one."""
    if isinstance(value, SecretUrl):
        return value
    place = Place.of(info)
    return SecretUrl(_absolute(_parse(value, place), place.folder))


def _parse(value: object, place: Place) -> URL:
    """Expand the references in `value` and take it apart; no sentence raised here repeats any of it."""
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")  # noqa: TRY004 - pydantic collects ValueError, not TypeError
    user_info = _USER_INFO.match(value)

    def encode(match: re.Match[str], found: str) -> str:
        # A password comes as it is, not percent-encoded: "p@ss" must not become a host name.
        literal = user_info is not None and match.start() >= user_info.start(1) and match.end() <= user_info.end(1)
        return quote(found, safe="") if literal else found

    text = _in_full(expand(value, place.environ, encode=encode))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # a port that is not a number is a ValueError that repeats it
        raise ValueError("is not a database URL, as in `postgresql://user@host/database`") from None
    if "@" in (url.host or ""):
        raise ValueError("has an `@` in its password: write `%40`")
    if url.host and url.get_backend_name() in FILE_DIALECTS:
        raise ValueError(f"needs three slashes before the file, as in `{url.get_backend_name()}:///shop.db`")
    return url


def _in_full(text: str) -> str:
    """Return a URL as SQLAlchemy reads it: `postgres://` gets its driver, `sqlite:shop.db` its slashes."""
    return _FILE_ONLY.sub(r"\1\2:///", _POSTGRES.sub("postgresql+psycopg", text, count=1), count=1)


def _absolute(url: URL, folder: Path) -> URL:
    """Return `url` with a relative file of SQLite or DuckDB put into `folder`; everything else is left alone."""
    name = url.database
    if url.get_backend_name() not in FILE_DIALECTS or not name or _NO_FILE.match(name):
        return url
    return url.set(database=str(folder.absolute() / name))
