"""The mappings: does each audience reach Schematic through them, and would Segment answer the same?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from audience_sync.checking.finding import Finding, error, ok, warning
from audience_sync.config import Audience, Settings
from audience_sync.core.destination.actions import Action
from audience_sync.core.destination.directives.compiling import reads
from audience_sync.core.destination.mappings import Mapping
from audience_sync.core.destination.triggers.differences import differences
from audience_sync.db import Database
from audience_sync.errors import ConfigError
from audience_sync.store import binding

CHECK: Final = "mapping"
KEYS: Final = ("user_keys", "company_keys")


def look(settings: Settings, database: Database | None) -> Iterator[Finding]:
    """Yield what the mappings do to every audience, and where they mean something else than at Segment."""
    for mapping in settings.mappings:
        if mapping.enabled:
            found = [*_compared(mapping), *_unread(mapping, settings)]
            yield from found or [ok(CHECK, mapping.name, f"makes {mapping.action} of events with {mapping.trigger}")]
        else:
            yield ok(CHECK, mapping.name, "is switched off in the file")
    environment = _bound(database)
    for audience in settings.audiences:
        if audience.enabled:
            yield from _carried(audience, settings, environment)


def _bound(database: Database | None) -> str:
    if database is None:
        return ""
    with database.read() as connection:
        return binding.get(connection, "environment") or ""


def _compared(mapping: Mapping) -> Iterator[Finding]:
    """Yield where Segment's own parser would answer differently."""
    if sentences := differences(mapping.trigger):
        yield warning(
            CHECK,
            mapping.name,
            f"its trigger means something else at Segment: {'; '.join(sentences)}",
            remedy="here it means what is written; change it if it is to mean what it does there",
        )


def _unread(mapping: Mapping, settings: Settings) -> Iterator[Finding]:
    """Yield keys that are looked for where Segment Engage puts them, and audience changes have none."""
    if mapping.action is not Action.IDENTIFY_USER:
        return
    for field in KEYS:
        for path in sorted(reads({field: mapping.fields.get(field)})):
            if path[:1] == ("traits",) and path[1:2] and path[1] not in {one.key for one in settings.audiences}:
                yield warning(
                    CHECK,
                    mapping.name,
                    f"{field} reads $.{'.'.join(path)}, which no audience change has: its traits are audiences alone",
                    remedy=f"name the key in the audience's {field}, and read $.context.{field}.{path[-1]}",
                )


def _carried(audience: Audience, settings: Settings, environment: str) -> Iterator[Finding]:
    found = settings.coverage(audience, environment=environment)
    for sentence in found.refusals:
        remedy = "mend that field, or narrow the mapping's trigger so that it leaves audience changes alone"
        yield error(CHECK, audience.key, ConfigError(sentence, hint=remedy))
    for sentence in found.gaps:
        remedy = 'map user_traits to $.traits in an enabled mapping whose trigger matches, as `type = "identify"` does'
        yield error(CHECK, audience.key, ConfigError(sentence, hint=remedy))
    for sentence in found.surprises:
        yield warning(CHECK, audience.key, sentence, remedy="nothing, if that is meant")
