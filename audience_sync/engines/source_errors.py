"""Saying what went wrong with a source in one sentence: where, what, and the database's own first line; no secrets."""

from __future__ import annotations

import re
from datetime import timedelta

from sqlalchemy.engine import URL

from audience_sync.config import Source
from audience_sync.core.text import short_duration
from audience_sync.errors import SourceError

_REASON = re.compile(  # in what DuckDB says of a CSV file, between the row itself and advice
    r'Error when converting column "[^"]*"|Expected Number of Columns: \d+ Found: \d+|not utf-8 encoded'
    r"|unterminated quote",
    re.IGNORECASE,
)
_FILE = re.compile(r"^\s*file = (.+?)\s*$", re.MULTILINE)
_BARE = (LookupError, AttributeError, TypeError, AssertionError)  # what they say means little without their name
_SECRET_WORDS = ("password", "passwd", "pwd", "token", "secret", "key")


def place_of(source: Source) -> str:
    """Name a source for people: the files, or the server and its database."""
    if source.url is None:
        return f"the file source {', '.join(dict.fromkeys(source.files.values()))}"
    url = source.url.get_secret_value()
    if url.get_backend_name() in {"sqlite", "duckdb"}:
        return f"the {url.get_backend_name()} source {url.database or 'in memory'}"
    where = url.host or url.normalized_query.get("host", ("localhost",))[0]
    database = f"{url.database} on " if url.database else ""
    return f"the {url.get_backend_name()} source {database}{where}"


def explained(
    failure: str, error: Exception, source: Source, *, where: str | None = None, hint: str | None = None
) -> SourceError:
    """Make one sentence of a failure and the first line of what the driver said, without the secrets of the URL.

    `where` is the place in a person's SQL, with its preposition.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if isinstance(error, _BARE):
        said = f"{type(error).__name__}: {said}"
    if "CSV Error" in said:  # the reason and the file are on other lines, among them one with the row itself
        reason, file = _REASON.search(str(error)), _FILE.search(str(error))
        said += f": {reason.group()}" if reason else ""
        said += f", in {file.group(1)}" if file else ""
    for secret in _secrets(source.url.get_secret_value()) if source.url else ():
        said = said.replace(secret, "***")
    at = f", {where}" if where else ""
    return SourceError(f"{failure[0].upper()}{failure[1:]}: {said.rstrip('.')}{at}.", hint=hint)


def _secrets(url: URL) -> list[str]:
    """Return every text in the URL that nobody may see, the longest first."""
    found = {str(url.password or "")}
    for name, values in url.normalized_query.items():
        if any(word in name.lower() for word in _SECRET_WORDS):
            found.update(values)
    return sorted(found - {""}, key=len, reverse=True)


def overdue(place: str, limit: timedelta) -> SourceError:
    """Say that a query was stopped."""
    return SourceError(
        f"The query on {place} did not finish within {short_duration(limit)}.",
        hint="make the query cheaper, or raise statement_timeout",
    )
