"""From a path and an environment to `Settings`.

Only two variables are read by name: AUDIENCE_SYNC_CONFIG for the path and STATE_DIRECTORY (systemd) for the membership
database; others where a setting refers to them. The API key is not looked up here: most commands work without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from audience_sync.config import defaults
from audience_sync.config.config_files import ConfigFiles, read_config_files
from audience_sync.config.cross_checks import check
from audience_sync.config.definition_files import with_texts
from audience_sync.config.freshness_rule import check_freshness, make_freshness
from audience_sync.config.mapping_tables import check_mappings
from audience_sync.config.problems import PlacedProblem, Problem, refuse, translate
from audience_sync.config.query_tables import check_queries, dependency_digests, key_of, user_column
from audience_sync.config.secrets import names_in
from audience_sync.config.settings import Audience, Schedule, Settings
from audience_sync.config.source_tables import SourceTable, check_sources, make_source
from audience_sync.config.tables import AudienceTable, Document, GuardTable, ScheduleTable, TraitTable, read_document
from audience_sync.config.types import FileContext
from audience_sync.core.model import Computation, GuardLimits


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Return what the file at `path` says, in this environment.

    Raises:
        ConfigError: the file, or one that it includes, cannot be read, is not valid TOML, or has problems: then each
            is a line of the message.
    """
    path = path.absolute()
    files, misplaced = read_config_files(path, known=Document.model_fields)
    raw, problems = with_texts(files.raw, files.folder)
    problems += [*check(raw, files.spell), *check_sources(raw), *check_freshness(raw), *check_queries(raw, files.spell)]
    problems += check_mappings(raw, files.spell)
    document = None
    try:
        document = read_document(raw, FileContext(path.parent, environ))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        problems = translate(errors, Document) + problems
    if misplaced or problems or document is None:  # raised here: pydantic's error would carry the values along
        placed = (_placed(one, files) for one in dict.fromkeys(problems))
        raise refuse(path, [*misplaced, *placed])
    return _settle(document, path, files)


def secret_names(path: Path) -> tuple[str, ...]:
    """Return the name of every ``${NAME}`` that the configuration at `path` refers to; none of them is looked up.

    The file need not be valid otherwise.

    Raises:
        ConfigError: the file, or one that it includes, cannot be read or is not valid TOML.
    """
    files, _ = read_config_files(path.absolute(), known=Document.model_fields)
    raw = {**files.raw}
    schematic = raw.get("schematic", {})
    if isinstance(schematic, dict) and "api_key_file" in schematic:
        raw["schematic"] = {**schematic, "api_key": ""}  # the default refers to a secret that is not used then
    return tuple(dict.fromkeys(names_in(raw, Document)))


def _placed(problem: Problem, files: ConfigFiles) -> PlacedProblem:
    place = files.place(problem.location)
    return PlacedProblem(place, f"{files.path(problem.location)}: {problem.sentence}")


def _settle(document: Document, path: Path, files: ConfigFiles) -> Settings:
    """Return the settings of a document without problems: defaults filled in, overrides applied."""
    entries = [*document.audiences, *document.traits]
    rests_on = dependency_digests(document)
    return Settings(
        path=path,
        include=tuple(document.include),
        included=tuple(one.path for one in files.included),
        identity=document.identity,
        database=document.database,
        schematic=document.schematic,
        delivery=document.delivery,
        schedule=_schedule(document.schedule, ScheduleTable()),
        guard=_guard(defaults.GUARD, document.guard),
        retention=document.retention,
        keys=document.keys,
        ingest=document.ingest,
        sources={name: make_source(name, one) for name, one in document.sources.items()},
        audiences=tuple(_audience(one, document, rests_on=rests_on.get(key_of(one), "")) for one in entries),
        mapping_tables=tuple(document.mappings),
        hooks=tuple(document.hooks),
    )


def _audience(entry: AudienceTable, document: Document, *, rests_on: str) -> Audience:
    source = entry.source or next(iter(document.sources))
    user, company = _default_keys(entry, document.sources[source])
    is_trait = isinstance(entry, TraitTable)
    return Audience(
        computation=Computation.TRAIT if is_trait else Computation.AUDIENCE,
        name=entry.name,
        key=key_of(entry),
        source=source,
        sql=entry.sql,
        query=entry.query,
        definition_file=Path(file) if (file := entry.sql_file or entry.query_file) else None,
        timezone=entry.timezone,
        rests_on=rests_on,
        user_keys={document.identity: user, **(entry.user_keys or {})},
        company_keys=company if entry.company_keys is None else entry.company_keys,
        enabled=entry.enabled,
        send_updates=entry.send_updates,
        on_missing=entry.on_missing if isinstance(entry, TraitTable) else defaults.ON_MISSING,
        type=entry.type if isinstance(entry, TraitTable) else None,
        freshness=make_freshness(document.sources[source], entry),
        schedule=_schedule(document.schedule, entry.schedule),
        guard=_guard(_guard(defaults.GUARD, document.guard), entry.guard),
    )


def _default_keys(entry: AudienceTable, source: SourceTable) -> tuple[str, dict[str, str]]:
    """Return the column of the identity, and the company keys of an audience that says nothing of them."""
    if not entry.query:
        return defaults.USER_COLUMN, {}
    company = source.profiles.company if source.profiles else None
    return user_column(source), {defaults.COMPANY_KEY: company} if company else {}


def _schedule(default: ScheduleTable, own: ScheduleTable) -> Schedule:
    """Return the schedule of an audience; its own `every` or `cron` drops whichever of them the default has."""
    rhythm = own if own.every or own.cron else default
    every = rhythm.every or (None if rhythm.cron else defaults.EVERY)
    jitters = (own.jitter, default.jitter, every * defaults.JITTER_SHARE if every else defaults.JITTER_OF_CRON)
    return Schedule(
        every=every,
        cron=rhythm.cron,
        timezone=own.timezone or default.timezone or defaults.TIMEZONE,
        jitter=next(jitter for jitter in jitters if jitter is not None),
    )


def _guard(default: GuardLimits, own: GuardTable) -> GuardLimits:
    return replace(default, **own.model_dump(exclude_none=True))
