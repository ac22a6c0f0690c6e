"""Check for user identifiers that several profiles share: Schematic treats those profiles as one user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audience_sync.checks.finding import Finding, warning
from audience_sync.store import identifiers
from audience_sync.store.database import Database, display_url

CHECK: Final = "identifiers"


def look(database: Database, destination: str) -> Iterator[Finding]:
    """Yield a warning with the number of shared identifiers, if there are any."""
    with database.read() as connection:
        shared = identifiers.count_shared(connection)
    if shared:
        sentence = identifiers.shared_sentence(shared, destination=destination)
        yield warning(CHECK, display_url(database.engine.url), sentence, remedy=identifiers.SHARED_HINT)
