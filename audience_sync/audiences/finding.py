"""What the rows of a definition have of one user, taken as a sync takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from audience_sync.audiences.definitions import reader_of_values
from audience_sync.compiler.statement_text import DIALECTS, dialect_of, render
from audience_sync.compiler.statements import Compiler, Select
from audience_sync.config import Audience, Settings
from audience_sync.core.keys import Reason, Rejection, ValueColumn, key_columns, value_position
from audience_sync.core.model import Computation, Member
from audience_sync.core.parameters import Statement
from audience_sync.core.rows import LineMaker, distinct, from_line, to_line
from audience_sync.engines import Rows, backend, columns, open_rows


@dataclass(frozen=True)
class Found:
    """A user as a sync would take them, None if it would not, and why rows of theirs are not taken as they are."""

    member: Member | None
    reasons: tuple[Reason, ...]


def find(settings: Settings, audience: Audience, user: str, *, as_of: datetime, query: Select | None = None) -> Found:
    """Return what a definition's rows have of one user: those of a `query` compiled for them, or of a person's SQL.

    Raises:
        ConfigError: the SQL can be seen to be wrong without running it.
        SourceError: the source cannot be read, or the result has not the columns it needs.
    """
    source = settings.sources[audience.source]
    statement: str | Statement
    if query is not None:
        statement = render(query, dialect_of(backend(source), of_text_files=source.has_text_files))
    else:
        statement = _persons(settings, audience, user, as_of=as_of)
    with open_rows(source, statement, as_of=as_of) as rows:
        return _taken(settings, audience, user, rows)


def _persons(settings: Settings, audience: Audience, user: str, *, as_of: datetime) -> str | Statement:
    """Return a person's SQL around which the user is asked for; in databases that we do not speak, as it is."""
    source, sql = settings.sources[audience.source], audience.sql or ""
    if backend(source) not in DIALECTS:
        return sql
    found = columns(source, sql, as_of=as_of)
    names = [column.name for column in found]
    keys = key_columns(
        names, identity=settings.identity, user_keys=audience.user_keys, company_keys=audience.company_keys
    )
    positions = [keys.identity, *(position for _, position in (*keys.user, *keys.company))]
    if audience.computation is Computation.TRAIT:
        positions.append(value_position(names))
    dialect = dialect_of(backend(source), of_text_files=source.has_text_files)
    compiler = Compiler(dialect=dialect, as_of=as_of, events=None, profiles=None, known={}, only=user)
    wanted = list(dict.fromkeys(names[position] for position in positions))
    asked = compiler.rows_of_person(sql, names[keys.identity], kind=found[keys.identity].type, columns=wanted)
    return render(asked, dialect)


def _taken(settings: Settings, audience: Audience, user: str, rows: Rows) -> Found:
    """Return what rows come to for a user; what others there are is forgotten page by page."""
    rejected: list[Rejection] = []
    maker = LineMaker(
        key_columns(
            rows.columns, identity=settings.identity, user_keys=audience.user_keys, company_keys=audience.company_keys
        ),
        reject=rejected.append,
        value_column=_value_column(settings, audience, rows.columns),
        rules=settings.key_rules(audience),
    )
    theirs: list[str] = []
    reasons: list[Reason] = []
    for page in rows.pages():
        theirs += [line for line in maker.singly(page) if line.partition("\t")[0] == user]
        reasons += [one.reason for one in rejected if one.profile_key == user]
        rejected.clear()
    left_out: list[str] = []
    kept = list(distinct(sorted(to_line(from_line(line, maker.wrapping)) for line in theirs), left_out=left_out.append))
    reasons += [Reason.DUPLICATE] * len(left_out)
    return Found(from_line(kept[0]) if kept else None, tuple(reasons))


def _value_column(settings: Settings, audience: Audience, names: Sequence[str]) -> ValueColumn | None:
    if audience.computation is Computation.AUDIENCE:
        return None
    return ValueColumn(value_position(names), reader_of_values(settings, audience))
