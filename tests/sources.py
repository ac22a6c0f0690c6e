"""Sources to read from, by the URL of their database."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.engine import make_url

from audience_sync.config import SecretUrl, Source

MINUTE = timedelta(minutes=1)


def database(url: str, limit: timedelta = MINUTE) -> Source:
    """Return the source that a URL names; its queries may take `limit`."""
    return Source(
        name="shop",
        url=SecretUrl(make_url(url)),
        files={},
        memory_limit="512MB",
        statement_timeout=limit,
        events=None,
        profiles=None,
    )
