"""Explain why a user is or is not in an audience: the conditions, the values and the matching events.

Membership is evaluated with the statement of a sync, limited to this user. The conditions come from a second statement,
and the events of each stream from one more. Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from audience_sync.audiences.definition import compiler_of, explained, identifiers_of, reader_of_values
from audience_sync.compiler.dialect import render
from audience_sync.compiler.statements import Compiler, Select
from audience_sync.config import Audience, Settings
from audience_sync.core import exact_json
from audience_sync.core.keys import RejectedRow, RowFault, ValueColumn, key_columns, value_position
from audience_sync.core.model import Member, from_ms
from audience_sync.core.parameters import Statement
from audience_sync.core.rows import LineMaker, distinct, from_line, to_line
from audience_sync.engines import Rows, columns, dialect_of, engine_of, open_rows
from audience_sync.query.printer import to_text
from audience_sync.query.references import looked_at
from audience_sync.query.syntax_tree import (
    EACH,
    And,
    Comparison,
    Condition,
    Context,
    Literal,
    Not,
    Or,
    Primary,
    Property,
    Reduction,
    Scalar,
    Trait,
)
from audience_sync.segment.timestamps import iso

# --- clauses ----------------------------------------------------------------------------------------------------------
# A query as a tree of clauses: the requirement of each condition, its values, and whether it holds.


class Event(NamedTuple):
    """One event of the user in a stream: its time, and the properties that the query reads, as JSON text."""

    at: str
    properties: str


@dataclass(frozen=True)
class Fact:
    """A scalar of the query and its value for the user, as JSON text; with the events if it is about a stream."""

    scalar: Scalar
    value: str
    known: Audience | None = None  # the audience or computed trait in the configuration with the key of this trait
    events: tuple[Event, ...] = ()  # deciding ones first
    events_in_all: int | None = None  # None: not about events, or not requested


@dataclass(frozen=True)
class Clause:
    """A condition of the query, whether it holds, and its parts; `node` is its position, as in 1.2."""

    node: str
    condition: Condition
    holds: bool
    facts: tuple[Fact, ...] = ()
    operands: tuple[Clause, ...] = ()


def asked_for(clause: Clause) -> str | None:
    """Return what a condition requires of its only value, as in `>= 500`; None if that is its whole text."""
    if len(clause.facts) != 1:
        return None
    whole, begin = to_text(clause.condition), to_text(clause.facts[0].scalar)
    return whole.removeprefix(begin).lstrip(" .") if whole.startswith(begin) and len(whole) > len(begin) else None


def clause_of(condition: Condition, node: str, holds: Mapping[int, bool], facts: Mapping[Scalar, Fact]) -> Clause:
    """Return a condition with its parts; AND, OR and NOT are computed from their operands."""
    match condition:
        case And(operands) | Or(operands):
            parts = tuple(clause_of(one, f"{node}.{n}", holds, facts) for n, one in enumerate(operands, 1))
            whole = (all if isinstance(condition, And) else any)(part.holds for part in parts)
            return Clause(node, condition, whole, operands=parts)
        case Not(operand):
            part = clause_of(operand, f"{node}.1", holds, facts)
            return Clause(node, condition, not part.holds, operands=(part,))
        case _:
            return Clause(node, condition, holds[id(condition)], tuple(facts[one] for one in scalars_of([condition])))


def primaries(condition: Condition) -> Iterator[Primary]:
    """Yield the conditions joined by AND, OR and NOT, in the order of the text."""
    match condition:
        case And(operands) | Or(operands):
            for one in operands:
                yield from primaries(one)
        case Not(operand):
            yield from primaries(operand)
        case _:
            yield condition


def scalars_of(conditions: Iterable[Primary]) -> Iterator[Scalar]:
    """Yield the scalars that conditions compare, except literals, in the order of the text."""
    for one in conditions:
        for scalar in (one.left, one.right) if isinstance(one, Comparison) else (one.scalar,):
            if not isinstance(scalar, Literal):
                yield outer(scalar)


def outer(scalar: Scalar) -> Scalar:
    """Return a scalar, or the list that it reads elements from."""
    if isinstance(scalar, Trait) and EACH in scalar.path:
        return replace(scalar, path=scalar.path[: scalar.path.index(EACH)])
    return scalar


# --- rows of one user -------------------------------------------------------------------------------------------------
# One user in the rows of a definition, processed as a sync does.


@dataclass(frozen=True)
class Found:
    """The user as a sync would see them (None: not at all), and why their rows are rejected or changed."""

    member: Member | None
    reasons: tuple[RowFault, ...]


def find(settings: Settings, audience: Audience, user: str, *, as_of: datetime, query: Select | None = None) -> Found:
    """Return one user from the rows of a definition: a `query` compiled for this user, or the user's own SQL.

    Raises:
        ConfigError: the SQL can be seen to be wrong without running it.
        SourceError: the source cannot be read, or the result does not have the required columns.
    """
    source = settings.sources[audience.source]
    statement: str | Statement
    if query is not None:
        statement = render(query, dialect_of(source))
    else:
        statement = _persons(settings, audience, user, as_of=as_of)
    with open_rows(source, statement, as_of=as_of, file=audience.definition_file) as rows:
        return _taken(settings, audience, user, rows)


def _persons(settings: Settings, audience: Audience, user: str, *, as_of: datetime) -> str | Statement:
    """Return the configured SQL with a filter for the user; unchanged for databases without an engine of ours."""
    source, sql = settings.sources[audience.source], audience.sql or ""
    dialect = engine_of(source).dialect
    if dialect is None:
        return sql
    found = columns(source, sql, as_of=as_of, file=audience.definition_file)
    names = [column.name for column in found]
    keys = key_columns(
        names, identity=settings.identity, user_keys=audience.user_keys, company_keys=audience.company_keys
    )
    positions = [keys.identity, *(position for _, position in (*keys.user, *keys.company))]
    if audience.computation.has_values:
        positions.append(value_position(names))
    compiler = Compiler(dialect=dialect, as_of=as_of, events=None, profiles=None, known={}, only=user)
    wanted = list(dict.fromkeys(names[position] for position in positions))
    asked = compiler.rows_of_person(sql, names[keys.identity], kind=found[keys.identity].type, columns=wanted)
    return render(asked, dialect)


def _taken(settings: Settings, audience: Audience, user: str, rows: Rows) -> Found:
    """Return the user from the rows; other rows are dropped page by page."""
    rejected: list[RejectedRow] = []
    maker = LineMaker(
        key_columns(
            rows.columns, identity=settings.identity, user_keys=audience.user_keys, company_keys=audience.company_keys
        ),
        reject=rejected.append,
        value_column=_value_column(settings, audience, rows.columns),
        rules=settings.key_rules(audience),
    )
    theirs: list[str] = []
    reasons: list[RowFault] = []
    for page in rows.pages():
        theirs += [line for line in maker.singly(page) if line.partition("\t")[0] == user]
        reasons += [one.reason for one in rejected if one.profile_key == user]
        rejected.clear()
    left_out: list[str] = []
    kept = list(distinct(sorted(to_line(from_line(line, maker.wrapping)) for line in theirs), left_out=left_out.append))
    reasons += [RowFault.DUPLICATE] * len(left_out)
    return Found(from_line(kept[0]) if kept else None, tuple(reasons))


def _value_column(settings: Settings, audience: Audience, names: Sequence[str]) -> ValueColumn | None:
    if not audience.computation.has_values:
        return None
    return ValueColumn(value_position(names), reader_of_values(settings, audience))


# --- explaining -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """The result of a definition for one user as of an instant."""

    audience: Audience
    user: str
    as_of: datetime
    found: Found
    root: Clause | Fact | None  # None: not in the universe, or defined by SQL only
    has_events: bool = False  # although not in the universe


def explain(settings: Settings, audience: Audience, user: str, *, as_of: datetime, events: int) -> Explanation:
    """Return why a user is or is not in an audience or has a value, with at most `events` events per stream.

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
    """The queries on the source about one user."""

    settings: Settings
    audience: Audience
    compiler: Compiler
    events: int

    def definition(self) -> Select:
        """Return the statement of a sync, limited to the user."""
        identifiers = identifiers_of(self.settings, self.audience)
        if self.audience.computation.has_values:
            return self.compiler.values(self.audience.scalar, self.audience.zone, identifiers)
        return self.compiler.members(self.audience.condition, self.audience.zone, identifiers)

    def root(self) -> Clause | Fact | None:
        """Return the query with the user's values, or None if the user is not in the universe."""
        if self.audience.computation.has_values:
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
        """Return the values of scalars and conditions by their id, or None if the user does not exist."""
        asked = self.compiler.evidence(self.audience.tree, self.audience.zone, scalars, conditions)
        row = next(self._rows(asked), None)
        if row is None:
            return None
        facts = {one: self._fact(one, row[f"scalar_{n}"]) for n, one in enumerate(scalars)}
        return facts, {id(one): bool(row[f"condition_{n}"]) for n, one in enumerate(conditions)}

    def has_events(self) -> bool:
        """Return whether a user without a profile has events."""
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
        """Return the events of a stream and their total number."""
        shown = looked_at(reduction) or self._everything()
        statement = self.compiler.stream(reduction, self.audience.zone, list(shown.values()), limit=self.events)
        rows = list(self._rows(statement))
        found = tuple(Event(_instant(row["at"]), _object(shown, row)) for row in rows)
        return found, int(rows[0]["events"]) if rows else 0

    def _everything(self) -> dict[str, Property | Context]:
        """Return all properties: the JSON column, or every column without another role."""
        layout = self.compiler.events
        if layout is None:
            raise AssertionError("a stream contains events")
        if layout.properties is not None:
            return {"": Property(())}
        others = (layout.user, layout.name, layout.timestamp, layout.context, layout.source)
        return {name: Property((name,)) for name in layout.relation.types if name not in others}

    def _rows(self, statement: Select) -> Iterator[Mapping[str, Any]]:
        source = self.settings.sources[self.audience.source]
        ready = render(statement, self.compiler.dialect)
        with open_rows(source, ready, as_of=self.compiler.as_of) as rows:
            for page in rows.pages():
                for row in page:
                    yield dict(zip(rows.columns, row, strict=True))


def _object(shown: Mapping[str, Property | Context], row: Mapping[str, Any]) -> str:
    """Return the shown properties of an event as a JSON object."""
    if list(shown) == [""]:
        return _json_text(row["shown_0"])
    values = {name: orjson.Fragment(_json_text(row[f"shown_{n}"])) for n, name in enumerate(shown)}
    return orjson.dumps(values).decode()


def _json_text(value: object) -> str:
    """Return a value as JSON text without spaces, whole numbers without a fraction, and other text as a string."""
    text = "null" if value is None else str(value)
    with suppress(ValueError, RecursionError):
        found = exact_json.loads(text)
        if isinstance(found, float) and found.is_integer() and abs(found) < 2**53:
            found = int(found)
        with suppress(TypeError):
            return exact_json.dumps(found).decode()
    return orjson.dumps(text.encode("utf-8", "replace").decode()).decode()


def _instant(value: object) -> str:
    """Return the time of an event: SQLite has milliseconds, and a time without a zone is UTC."""
    match value:
        case int() | float():
            with suppress(OverflowError):
                return iso(from_ms(value))
        case datetime():
            return iso(value.replace(tzinfo=UTC) if value.tzinfo is None else value)
        case _:
            pass
    return str(value)
