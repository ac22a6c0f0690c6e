"""The settings that the program uses: every default filled in, every audience complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from audience_sync.config.freshness_rule import FreshnessRule
from audience_sync.config.mapping_tables import make_mappings
from audience_sync.config.problems import near, spell
from audience_sync.config.query_tables import FITTING_TYPES, asked_by_key, digest_of, read_condition, read_scalar
from audience_sync.config.secrets import WebhookSecrets
from audience_sync.config.source_tables import Source
from audience_sync.config.tables import (
    DatabaseTable,
    DeliveryTable,
    HookTable,
    IngestTable,
    KeysTable,
    MappingTable,
    RetentionTable,
    SchematicTable,
)
from audience_sync.core.keys import KeyRules
from audience_sync.core.model import Computation, GuardLimits, OnMissing, TraitType
from audience_sync.core.text import counted
from audience_sync.destinations.destination_protocol import Coverage, Destination, Renderer
from audience_sync.destinations.mappings import Mapping
from audience_sync.destinations.schematic.schematic_destination import SchematicDestination
from audience_sync.destinations.webhook.webhook_destination import WebhookDestination
from audience_sync.errors import UnknownName
from audience_sync.query.printer import to_text
from audience_sync.query.syntax_tree import Condition, Query, Scalar, kind_of


class Schedule(BaseModel):
    """When an audience is synced: `every` so often or at the times of `cron`, exactly one of them, plus jitter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: timedelta | None
    cron: str | None
    timezone: str
    jitter: timedelta  # up to so much later, at random

    @property
    def zone(self) -> ZoneInfo:
        """Return the time zone in which `cron` is meant."""
        return ZoneInfo(self.timezone)


class Audience(BaseModel):
    """One audience or computed trait, with what it takes from the defaults; it has `sql` or `query`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    computation: Computation
    name: str
    key: str
    source: str
    sql: str | None
    query: str | None
    definition_file: Path | None  # absolute, of `sql_file` or `query_file`
    timezone: str  # of the calendar in a query
    rests_on: str  # what else the query means: a digest of where events and profiles are, and of what it asks by key
    user_keys: dict[str, str]
    company_keys: dict[str, str]
    enabled: bool
    send_updates: bool
    on_missing: OnMissing
    type: TraitType | None  # None: what follows from the query, or nothing
    freshness: FreshnessRule | None  # None: it is evaluated however old the data is
    schedule: Schedule
    guard: GuardLimits

    @property
    def condition(self) -> Condition:
        """Return the query of an audience that has one."""
        return read_condition(self.query or "")

    @property
    def scalar(self) -> Scalar:
        """Return the query of a computed trait that has one."""
        return read_scalar(self.query or "")

    @property
    def tree(self) -> Query:
        """Return the query of an audience or computed trait that has one."""
        return self.scalar if self.computation.has_values else self.condition

    @property
    def asks_for(self) -> frozenset[str]:
        """Return the keys its query asks for with trait('key'): of audiences, computed traits or traits of profiles."""
        return frozenset() if self.query is None else asked_by_key(self.tree)

    @property
    def definition(self) -> str:
        """Return the query in canonical form, or `sql` for an audience that has that."""
        return "sql" if self.query is None else to_text(self.tree)

    @property
    def declared_type(self) -> TraitType | None:
        """Return the type that its trait is declared with; None: nothing says what its values are."""
        if (fixed := self.computation.fixed_type) is not None:
            return fixed
        if self.type is not None or self.query is None:
            return self.type
        fitting = FITTING_TYPES.get(kind_of(self.scalar))
        return fitting[0] if fitting else None

    @property
    def zone(self) -> ZoneInfo:
        """Return the time zone of the query's calendar."""
        return ZoneInfo(self.timezone)

    @property
    def definition_text(self) -> str:
        """Return what the file says of who is meant, as people read it: settings as in TOML, then the SQL or the query.

        `definition_hash` stands for this, and for what it rests on.
        """
        said: dict[str, object] = {
            "source": self.source,
            "user_keys": self.user_keys,
            "company_keys": self.company_keys,
        }
        if self.query is not None:
            said["timezone"] = self.timezone
        if self.computation.has_values:
            said |= {"on_missing": self.on_missing} | ({"type": self.type} if self.type else {})
        settings = [f"{name} = {_as_toml(value)}" for name, value in said.items()]
        return "\n".join([*settings, "", (self.sql or self.query or "").strip()])

    @property
    def definition_hash(self) -> str:
        """Return a hash that changes when the audience may mean other people, other values or other identifiers."""
        parts: list[object] = [self.source, (self.sql or "").strip(), self.user_keys, self.company_keys]
        if self.query is not None:
            parts += [self.query.strip(), self.timezone, self.rests_on]
        if self.computation.has_values:
            parts += [self.on_missing, self.type]
        return digest_of(parts)


def _as_toml(value: object) -> str:
    if isinstance(value, dict):
        settings = [f"{spell((name,))} = {_as_toml(one)}" for name, one in value.items()]
        return f"{{ {', '.join(settings)} }}" if settings else "{}"
    return json.dumps(value, ensure_ascii=False)


class Subscriber(NamedTuple):
    """A destination that gets a message for each change of an audience."""

    destination: str
    with_members: bool  # it first gets the members that the audience has when the subscription begins


@dataclass(frozen=True, kw_only=True)
class Route:
    """A destination, how its events are made, and how fast they are sent."""

    name: str  # of its rows in the membership database
    destination: Destination
    delivery: DeliveryTable
    renderer: Callable[[str], Renderer]  # of the environment with this id or label
    has_environment: bool = True  # its key belongs to one, to which the membership database is bound
    is_required: bool = True  # `sync` waits for it, and its exit code tells how it went


class Settings(BaseModel):
    """The whole configuration, and the files it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    include: tuple[str, ...]  # paths and globs
    included: tuple[Path, ...]  # files with more audiences, computed traits and mappings, in their order
    identity: str
    database: DatabaseTable
    schematic: SchematicTable
    delivery: DeliveryTable
    schedule: Schedule
    guard: GuardLimits
    retention: RetentionTable
    keys: KeysTable
    ingest: IngestTable
    sources: dict[str, Source]
    audiences: tuple[Audience, ...]
    mapping_tables: tuple[MappingTable, ...]
    hooks: tuple[HookTable, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Return every file of the configuration: the main one, those it includes, and those of definitions."""
        definitions = (one.definition_file for one in self.audiences if one.definition_file is not None)
        return tuple(dict.fromkeys((self.path, *self.included, *definitions)))

    @cached_property
    def mappings(self) -> tuple[Mapping, ...]:
        """Return the mappings, ready to be applied; without any in the file, the presets."""
        return make_mappings(self.mapping_tables)

    @cached_property
    def graph(self) -> dict[str, frozenset[str]]:
        """Return, for the key of each audience, the keys its query asks for, also those that are not in the file."""
        return {one.key: one.asks_for for one in self.audiences}

    def in_order(self, audiences: Iterable[Audience]) -> list[Audience]:
        """Return some audiences and everything they use, each behind what it uses."""
        from audience_sync.query.references import closure, order  # noqa: PLC0415 - few commands need an order

        by_key = {one.key: one for one in self.audiences}
        return [by_key[key] for key in order(closure(self.graph, [one.key for one in audiences]))]

    def families(self, audiences: Iterable[Audience]) -> list[list[Audience]]:
        """Return some audiences in groups: those together that use one another, directly or not, or use the same."""
        from audience_sync.query.references import closure, families  # noqa: PLC0415 - as above

        wanted = {one.key: one for one in audiences}
        groups = families(closure(self.graph, wanted))
        return [[wanted[key] for key in group if key in wanted] for group in groups]

    def family(self, audience: Audience) -> list[Audience]:
        """Return an audience and everything it is connected with: what it uses, what uses it, and so on."""
        return next(family for family in self.families(self.audiences) if audience.key in {one.key for one in family})

    def counts(self) -> str:
        """Return how many audiences and computed traits there are, as in `5 audiences, 2 computed traits`."""
        traits = sum(one.computation is Computation.TRAIT for one in self.audiences)
        found = counted(len(self.audiences) - traits, "audience")
        return f"{found}, {counted(traits, 'computed trait')}" if traits else found

    @property
    def section(self) -> SchematicTable:
        """Return the section of the destination."""
        return self.schematic

    @property
    def destination(self) -> Destination:
        """Return the destination, as its section describes it."""
        return SchematicDestination(self.section)

    @property
    def route(self) -> Route:
        """Return the way to the destination of audiences and forwarded events."""
        destination = self.destination
        return Route(name=destination.name, destination=destination, delivery=self.delivery, renderer=self.renderer)

    @property
    def routes(self) -> list[Route]:
        """Return the ways to all destinations."""
        return [self.route, *map(self.hook_route, self.hooks)]

    @property
    def hook_names(self) -> frozenset[str]:
        """Return the names of the webhooks."""
        return frozenset(hook.name for hook in self.hooks)

    def hook_route(self, hook: HookTable, secrets: WebhookSecrets | None = None) -> Route:
        """Return the way to a webhook; to send something, its secrets are needed."""
        headers = {} if secrets is None else secrets.headers
        destination = WebhookDestination(hook, secrets and secrets.second, headers)
        return Route(
            name=hook.name,
            destination=destination,
            delivery=hook.delivery,
            renderer=lambda environment: destination.renderer(
                identity=self.identity, environment=environment, mappings=()
            ),
            has_environment=False,
            is_required=hook.required,
        )

    def renderer(self, environment: str) -> Renderer:
        """Return the renderer of the destination, for the environment with this id or label."""
        return self.destination.renderer(identity=self.identity, environment=environment, mappings=self.mappings)

    def subscribers(self, audience: Audience) -> list[Subscriber]:
        """Return the destinations that get a message for each change of an audience."""
        return [
            Subscriber(hook.name, with_members=hook.start == "members")
            for hook in self.hooks
            if hook.audiences is None or audience.key in hook.audiences
        ]

    def with_environment_label(self, label: str) -> Settings:
        """Return the same settings with another label of the destination's environment."""
        return self.model_copy(update={"schematic": self.schematic.model_copy(update={"environment": label})})

    def coverage(self, audience: Audience, *, environment: str) -> Coverage:
        """Return how an audience reaches the destination, in the environment of the database ("": none yet)."""
        return self.renderer(environment).coverage(
            audience.key,
            user_keys=audience.user_keys,
            company_keys=audience.company_keys,
            computation=audience.computation,
            trait_type=audience.declared_type,
        )

    def key_rules(self, audience: Audience) -> KeyRules:
        """Return which texts in the rows of an audience are not keys."""
        return KeyRules(self.keys.placeholders, of_text_files=self.sources[audience.source].has_text_files)

    def audience(self, key_or_name: str) -> Audience:
        """Return the audience or computed trait with this key or, where no key is so, this name.

        Raises:
            UnknownName: there is none; names those that look like it.
        """
        by_key = {one.key: one for one in self.audiences}
        by_name = {one.name: one for one in self.audiences}
        for known in (by_key, by_name):
            if key_or_name in known:
                return known[key_or_name]
        names = [word for one in self.audiences for word in (one.key, one.name)]
        raise UnknownName(
            f"there is no audience `{key_or_name}` in {self.path}{near(key_or_name, names)}",
            hint="list them with `audience-sync audiences`",
        )
