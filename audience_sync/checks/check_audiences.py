"""Check sources and audiences: each source answers, each query has the required columns, and the database agrees."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from audience_sync.audiences.data_age import DataAges
from audience_sync.audiences.definition import columns_of
from audience_sync.checks.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Audience, FreshnessRule, Settings, Source
from audience_sync.core.keys import key_columns, value_position
from audience_sync.core.text import counted
from audience_sync.engines import ping
from audience_sync.store import audiences
from audience_sync.store.audiences import AudienceRow, rename_warnings
from audience_sync.store.database import Database
from audience_sync.sync import standing_hold

CHECK: Final = "audience"
PATIENCE: Final = timedelta(minutes=2)  # a suspended warehouse may have to start first


def look(settings: Settings, database: Database | None, *, now: datetime) -> Iterator[Finding]:
    """Check every source and every audience; without a database, only against the sources."""
    answering = set()
    for name, source in settings.sources.items():
        found = _source(name, source)
        answering.update([name] if found.exit_code == 0 else [])
        yield found
    ages = DataAges()
    for name in sorted(answering):
        source = settings.sources[name]
        if source.freshness is not None:
            yield _age(ages, "source", name, source, source.freshness, now=now)
    known = _known(database)
    keys = {one.key for one in settings.audiences}
    orphans = [row for key, row in known.items() if key not in keys]
    for audience in settings.audiences:
        if not audience.enabled:
            yield ok(CHECK, audience.key, "is disabled in the configuration and was not checked")
            continue
        yield _query(settings, audience, now=now, source_answers=audience.source in answering)
        source = settings.sources[audience.source]
        if audience.freshness not in (None, source.freshness) and audience.source in answering:
            yield _age(ages, CHECK, audience.key, source, audience.freshness, now=now)
        yield from _kept(audience, known.get(audience.key))
        for _, sentence, remedy in rename_warnings(settings, [audience], list(known.values())):
            yield warning(CHECK, audience.key, sentence, remedy=remedy)
        yield from _held(settings, audience, database)
    for row in orphans:
        if row.state != "retired":
            yield _orphan(row, settings)


def _source(name: str, source: Source) -> Finding:
    try:
        ping(source, min(PATIENCE, source.statement_timeout))
    except EXPECTED as raised:
        return error("source", name, raised)
    return ok("source", name, f"answers: {source.url or ', '.join(dict.fromkeys(source.files.values()))}")


def _age(ages: DataAges, check: str, subject: str, source: Source, rule: FreshnessRule, *, now: datetime) -> Finding:
    """Return how old the newest data is by the rule of a source, or of an audience."""
    try:
        age = ages.of_source(source, rule, as_of=None, now=now)
    except EXPECTED as raised:
        return error(check, subject, raised)
    if not age.is_stale:
        return ok(check, subject, age.sentence)
    remedy = "load new data; `audience-sync sync --allow-stale` evaluates the old data"
    return warning(check, subject, f"the next sync would not evaluate it: {age.sentence}", remedy=remedy)


def _query(settings: Settings, audience: Audience, *, now: datetime, source_answers: bool) -> Finding:
    if not source_answers:
        return warning(
            CHECK,
            audience.key,
            f"not checked: its source {audience.source} cannot be read",
            remedy="fix the source first, then check again",
        )
    try:
        columns = columns_of(settings, audience, as_of=now)
        key_columns(
            columns, identity=settings.identity, user_keys=audience.user_keys, company_keys=audience.company_keys
        )
        if audience.computation.has_values:
            value_position(columns)
    except EXPECTED as raised:
        return error(CHECK, audience.key, raised)
    return ok(CHECK, audience.key, f"query accepted; columns: {', '.join(columns)}; values are not checked")


def _kept(audience: Audience, row: AudienceRow | None) -> Iterator[Finding]:
    """Yield the problems of an audience in the database."""
    if row is not None and row.state == "retired":
        yield warning(
            CHECK,
            audience.key,
            "is retired: it is skipped, and its key cannot be used again",
            remedy="remove it from the file, or give it a new name or key to start over",
        )
    elif row is not None and row.state == "paused":
        yield warning(
            CHECK,
            audience.key,
            "is paused: it is not synced, and its pending changes are held back",
            remedy=f"run `audience-sync resume {audience.key}` to continue",
        )


def _held(settings: Settings, audience: Audience, database: Database | None) -> Iterator[Finding]:
    """Yield why a sync of an audience would be held."""
    if database is not None:
        with database.read() as connection:
            hold = standing_hold(connection, settings, audience)
        if hold is not None:
            yield warning(CHECK, audience.key, f"the next sync would be held: {hold.cause}", remedy=hold.remedy)


def _orphan(row: AudienceRow, settings: Settings) -> Finding:
    return warning(
        CHECK,
        row.key,
        (
            f"is an orphan: it has {counted(row.members, 'member')} in the database but is not in {settings.path}; its"
            " traits stay as they are"
        ),
        remedy=f"to end it, run `audience-sync retract {row.key}`, which sends {row.computation.exit_value} to"
        f' every member; if it was renamed, set key = "{row.key}" under its new name',
    )


def _known(database: Database | None) -> dict[str, AudienceRow]:
    if database is None:
        return {}
    with database.read() as connection:
        return {row.key: row for row in audiences.every(connection)}
