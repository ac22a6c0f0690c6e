"""Check whether the mappings deliver each audience, and whether each mapping is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from audience_sync.checks.finding import Finding, error, ok, warning
from audience_sync.config import Audience, Settings
from audience_sync.destinations.mappings import Mapping, looks_at_the_environment
from audience_sync.destinations.sample_changes import AT, PEOPLE, sample, sample_values
from audience_sync.errors import ConfigError
from audience_sync.segment.fql.trigger_tree import FieldComparison, FieldOneOf, conditions
from audience_sync.segment.mapping.template import reads
from audience_sync.segment.segment_events import SegmentEvent
from audience_sync.store import binding
from audience_sync.store.database import Database

CHECK: Final = "mapping"
KEYS: Final = ("user_keys", "company_keys")
OF_APPLICATIONS: Final = frozenset({"track", "page", "screen", "group", "alias"})  # an audience change is an identify


def look(settings: Settings, database: Database | None) -> Iterator[Finding]:
    """Yield what the mappings do to every audience."""
    environment = _bound(database)
    audiences = [audience for audience in settings.audiences if audience.enabled]
    events = [event for audience in audiences for event in _samples(audience, settings, environment)]
    for mapping in settings.mappings:
        if not mapping.enabled:
            yield ok(CHECK, mapping.name, "is disabled in the configuration")
            continue
        found: list[Finding] = []
        if settings.mapping_tables and events and (environment or not looks_at_the_environment(mapping)):
            found.extend(_used(mapping, events, takes_others=settings.ingest.listen is not None))
        yield from found or [ok(CHECK, mapping.name, f"runs {mapping.action} for events that match {mapping.trigger}")]
    for audience in audiences:
        yield from _carried(audience, settings, environment)


def _bound(database: Database | None) -> str:
    if database is None:
        return ""
    with database.read() as connection:
        return binding.environment(connection)


def _samples(audience: Audience, settings: Settings, environment: str) -> Iterator[SegmentEvent]:
    renderer = settings.renderer(environment)
    present, absent = sample_values(audience.computation, audience.declared_type)
    for value, kinds in ((present, ("entered", "updated", "resent")), (absent, ("exited", "resent"))):
        keys = audience.user_keys, audience.company_keys
        one = sample(audience.key, value, PEOPLE[0], *keys, audience.computation, identity=settings.identity)
        for kind in kinds:
            change = one._replace(kind=kind)
            yield renderer.event([change], change.identifiers, at=AT)


def _used(mapping: Mapping, events: list[SegmentEvent], *, takes_others: bool) -> Iterator[Finding]:
    """Yield warnings for a mapping that matches no audience change, or reads keys that no change has.

    Mappings for an application's events are not checked, because these events can have any fields: their trigger names
    the event type, or [ingest] is on (`takes_others`) and the trigger does not need anything specific to changes.
    """
    matched = [event for event in events if mapping.matches(event)]
    if not matched and _names_other_events(mapping):
        yield ok(CHECK, mapping.name, f"runs {mapping.action} only for forwarded events that match {mapping.trigger}")
        return
    if takes_others and (not matched or any(mapping.matches(_of_an_application(event)) for event in matched)):
        return
    if not matched:
        yield warning(
            CHECK,
            mapping.name,
            f"does not match any audience change: {mapping.trigger}",
            remedy="correct the trigger (an audience change is an identify call for one user with one trait), or ignore"
            " this if the mapping is for `audience-sync forward`",
        )
        return
    written = {field: mapping.fields[field] for field in KEYS if field in mapping.fields}
    for field, value in written.items():
        for path in sorted(reads(value) if value != mapping.action.preset_fields.get(field) else ()):
            if not any(_has(event, path) for event in matched):
                yield warning(
                    CHECK,
                    mapping.name,
                    f"{field} reads $.{'.'.join(path)}, but audience changes do not have that field",
                    remedy=f"add the key to the audience's {field} and read it from $.context.{field}",
                )


def _names_other_events(mapping: Mapping) -> bool:
    """Return whether a trigger names an event type that audience changes never have, as for `audience-sync forward`."""
    for one in conditions(mapping.expression):
        match one:
            case FieldComparison(("type",), "=", str(value)) if value in OF_APPLICATIONS:
                return True
            case FieldOneOf(("type",), values, False) if OF_APPLICATIONS.intersection(map(str, values)):
                return True
    return False


def _of_an_application(event: SegmentEvent) -> SegmentEvent:
    """Return an audience change as an application could send it, without the fields that only changes have."""
    return {**event, "context": {}}


def _has(event: SegmentEvent, path: tuple[str, ...]) -> bool:
    """Return whether an event has a value at a path."""
    found: Any = event
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return True


def _carried(audience: Audience, settings: Settings, environment: str) -> Iterator[Finding]:
    found = settings.coverage(audience, environment=environment)
    for sentence in found.rejections:
        remedy = "fix that field, or narrow the mapping's trigger so that it does not match audience changes"
        yield error("audience", audience.key, ConfigError(sentence, hint=remedy))
    for sentence in found.gaps:
        remedy = (
            "in a mapping that matches every change, map user_traits to $.traits and user_keys to a key of each user"
        )
        yield error("audience", audience.key, ConfigError(sentence, hint=remedy))
    for sentence in found.surprises:
        yield warning("audience", audience.key, sentence, remedy="ignore this if it is intended")
