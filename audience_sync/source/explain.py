"""Saying what went wrong with a source in one sentence: where, what, and the database's own first line; no secrets."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.engine import URL

from audience_sync.errors import SourceError

_SECRET_WORDS = ("password", "passwd", "pwd", "token", "secret", "key")


def place_of(url: URL) -> str:
    """Name a source for people: the file, or the server and its database."""
    if url.get_backend_name() in {"sqlite", "duckdb"}:
        return f"the {url.get_backend_name()} source {url.database or 'in memory'}"
    where = url.host or url.normalized_query.get("host", ("localhost",))[0]
    return f"the {url.get_backend_name()} source {url.database or ''}@{where}".replace(" @", " ")


def explained(failure: str, error: Exception, url: URL, *, hint: str | None = None) -> SourceError:
    """Make one sentence of a failure and the first line of what the driver said, without the secrets of the URL."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    for secret in _secrets(url):
        said = said.replace(secret, "***")
    return SourceError(f"{failure[0].upper()}{failure[1:]}: {said.rstrip('.')}.", hint=hint)


def _secrets(url: URL) -> list[str]:
    """Return every text in the URL that nobody may see, the longest first."""
    found = {str(url.password or "")}
    for name, values in url.normalized_query.items():
        if any(word in name.lower() for word in _SECRET_WORDS):
            found.update(values)
    return sorted(found - {""}, key=len, reverse=True)


def spell(limit: timedelta) -> str:
    """Write a duration the way the configuration does: 30m."""
    seconds = limit.total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:g}{unit}"
    return f"{seconds:g}s"
