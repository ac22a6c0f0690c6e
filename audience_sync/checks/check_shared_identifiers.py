"""User identifiers that several profiles were sent with: Schematic takes those profiles for one user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audience_sync.checks.finding import Finding, warning
from audience_sync.store import identifiers
from audience_sync.store.database import Database, display_url

CHECK: Final = "identifiers"


def look(database: Database, destination: str) -> Iterator[Finding]:
    """Yield how many identifiers are shared, if any are."""
    with database.read() as connection:
        shared = identifiers.count_shared(connection)
    if shared:
        sentence = identifiers.shared_sentence(shared, destination=destination)
        yield warning(CHECK, display_url(database.engine.url), sentence, remedy=identifiers.SHARED_HINT)
