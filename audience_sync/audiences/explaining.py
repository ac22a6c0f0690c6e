"""Why somebody is in an audience or not: what is asked for, what their values are, and the events that decided.

Whether they are in is asked with the statement of a sync, for this one user; the conditions come from another, and the
events of each stream from one more. Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from audience_sync.audiences.clauses import Clause, Event, Fact, clause_of, outer, primaries, scalars_of
from audience_sync.audiences.finding import Found, find
from audience_sync.audiences.preparing import compiler_of, explained, identifiers_of
from audience_sync.compiler.statement_text import render
from audience_sync.compiler.statements import Compiler, Select
from audience_sync.config import Audience, Settings
from audience_sync.core import exact_json
from audience_sync.core.model import Computation, from_ms
from audience_sync.engines import open_rows
from audience_sync.query.references import looked_at
from audience_sync.query.syntax_tree import Context, Literal, Primary, Property, Reduction, Scalar, Trait
from audience_sync.segment.timestamps import iso


@dataclass(frozen=True)
class Explanation:
    """What a definition says of one user as of an instant."""

    audience: Audience
    user: str
    as_of: datetime
    found: Found
    root: Clause | Fact | None  # None: they are not in the universe, or there is only SQL
    has_events: bool = False  # though they are not in the universe


def explain(settings: Settings, audience: Audience, user: str, *, as_of: datetime, events: int) -> Explanation:
    """Return why a user is in an audience, or has a value, or not; with so many events of each stream, none for 0.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be read.
    """
    if audience.query is None:
        found = find(settings, audience, user, as_of=as_of)
        return Explanation(audience, user, as_of, found, root=None)
    compiler = compiler_of(settings, audience, as_of=as_of, only=user)
    with explained(settings, audience):
        asking = _Asking(settings, audience, compiler, events)
        found = find(settings, audience, user, as_of=as_of, query=asking.definition())
        root = asking.root()
        if root is None:
            return Explanation(audience, user, as_of, found, root, has_events=asking.has_events())
    return Explanation(audience, user, as_of, found, root)


@dataclass(frozen=True)
class _Asking:
    """Everything that is asked of the source about one user."""

    settings: Settings
    audience: Audience
    compiler: Compiler
    events: int

    def definition(self) -> Select:
        """Return the statement of a sync, for the user alone."""
        identifiers = identifiers_of(self.settings, self.audience)
        if self.audience.computation is Computation.TRAIT:
            return self.compiler.values(self.audience.scalar, self.audience.zone, identifiers)
        return self.compiler.members(self.audience.condition, self.audience.zone, identifiers)

    def root(self) -> Clause | Fact | None:
        """Return the query with the user's values; None: they are not in the universe."""
        if self.audience.computation is Computation.TRAIT:
            scalar = outer(self.audience.scalar)
            found = self._facts([scalar], [])
            return None if found is None else found[0][scalar]
        tree = self.audience.condition
        conditions = list(primaries(tree))
        found = self._facts(list(dict.fromkeys(scalars_of(conditions))), conditions)
        return None if found is None else clause_of(tree, "1", found[1], found[0])

    def _facts(
        self, scalars: list[Scalar], conditions: list[Primary]
    ) -> tuple[dict[Scalar, Fact], dict[int, bool]] | None:
        """Return the values of scalars, and whether conditions hold, by their id; None: the user is not there."""
        asked = self.compiler.evidence(self.audience.tree, self.audience.zone, scalars, conditions)
        row = next(self._rows(asked), None)
        if row is None:
            return None
        facts = {one: self._fact(one, row[f"scalar_{n}"]) for n, one in enumerate(scalars)}
        return facts, {id(one): bool(row[f"condition_{n}"]) for n, one in enumerate(conditions)}

    def has_events(self) -> bool:
        """Return whether somebody without a profile has events."""
        if self.compiler.profiles is None or self.compiler.events is None:
            return False
        everybody = replace(self.compiler, profiles=None)
        return any(True for _ in self._rows(everybody.evidence(Literal(0), self.audience.zone, [], [])))

    def _fact(self, scalar: Scalar, value: object) -> Fact:
        text = _json_text(value)
        match scalar:
            case Reduction() if self.events:
                happened, in_all = self._happened(scalar)
                return Fact(scalar, text, events=happened, events_in_all=in_all)
            case Trait((key,)) if key in self.compiler.known:
                return Fact(scalar, text, known=self.settings.audience(key))
            case _:
                return Fact(scalar, text)

    def _happened(self, reduction: Reduction) -> tuple[tuple[Event, ...], int]:
        """Return the events of a stream, and how many there are in all."""
        shown = looked_at(reduction) or self._everything()
        statement = self.compiler.stream(reduction, self.audience.zone, list(shown.values()), limit=self.events)
        rows = list(self._rows(statement))
        found = tuple(Event(_instant(row["at"]), _object(shown, row)) for row in rows)
        return found, int(rows[0]["events"]) if rows else 0

    def _everything(self) -> dict[str, Property | Context]:
        """Return all properties there may be: the JSON, or every column that is nothing else."""
        room = self.compiler.events
        if room is None:
            raise AssertionError("a stream has events")
        if room.properties is not None:
            return {"": Property(())}
        others = (room.user, room.name, room.timestamp, room.context, room.source)
        return {name: Property((name,)) for name in room.relation.types if name not in others}

    def _rows(self, statement: Select) -> Iterator[Mapping[str, Any]]:
        source = self.settings.sources[self.audience.source]
        ready = render(statement, self.compiler.dialect)
        with open_rows(source, ready, as_of=self.compiler.as_of) as rows:
            for page in rows.pages():
                for row in page:
                    yield dict(zip(rows.columns, row, strict=True))


def _object(shown: Mapping[str, Property | Context], row: Mapping[str, Any]) -> str:
    """Return what is shown of an event as a JSON object; of all properties, they are one."""
    if list(shown) == [""]:
        return _json_text(row["shown_0"])
    values = {name: orjson.Fragment(_json_text(row[f"shown_{n}"])) for n, name in enumerate(shown)}
    return orjson.dumps(values).decode()


def _json_text(value: object) -> str:
    """Return a value as JSON text without blanks, a whole number without a fraction; what is no JSON is a text."""
    text = "null" if value is None else str(value)
    with suppress(ValueError, RecursionError):
        found = exact_json.loads(text)
        if isinstance(found, float) and found.is_integer() and abs(found) < 2**53:
            found = int(found)
        with suppress(TypeError):
            return exact_json.dumps(found).decode()
    return orjson.dumps(text.encode("utf-8", "replace").decode()).decode()


def _instant(value: object) -> str:
    """Return the time of an event: SQLite's is in milliseconds, one without a zone is UTC."""
    match value:
        case int() | float():
            with suppress(OverflowError):
                return iso(from_ms(value))
        case datetime():
            return iso(value.replace(tzinfo=UTC) if value.tzinfo is None else value)
        case _:
            pass
    return str(value)
