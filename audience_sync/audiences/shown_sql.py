"""The SQL of a definition for people to read: the statement that runs in the source, its parameters as comments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from audience_sync.audiences.definition import statement_of
from audience_sync.config import Audience, Settings
from audience_sync.core.parameters import bind_now, naming
from audience_sync.engines import engine_of

_LINE_ENDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # what would end a comment, or steer a terminal


@dataclass(frozen=True)
class WrittenSql:
    """A statement, and its parameters by their placeholders; each value as a literal of SQL on one line."""

    sql: str
    parameters: Mapping[str, str]

    @property
    def text(self) -> str:
        """Return the statement with its parameters as comments behind it."""
        return "\n".join([self.sql, *(f"-- {name} = {value}" for name, value in self.parameters.items())])


def written_sql(settings: Settings, audience: Audience, *, as_of: datetime) -> WrittenSql:
    """Return the SQL of an audience or computed trait as a sync as of an instant would run it.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source does not say what columns it has.
    """
    engine = engine_of(settings.sources[audience.source])
    statement = statement_of(settings, audience, as_of=as_of)
    if isinstance(statement, str):
        with naming(audience.definition_file):
            uses_now = bind_now(statement, ":now", lexis=engine.lexis).placeholders > 0
        return WrittenSql(statement.strip(), {":now": _literal(engine.now(as_of))} if uses_now else {})
    given = statement.parameters or {}
    named = given.items() if isinstance(given, Mapping) else enumerate(given, 1)
    shown = engine.dialect.shown_parameter if engine.dialect else "{}"
    return WrittenSql(statement.sql, {shown.format(name): _literal(value) for name, value in named})


def _literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case timedelta():
            return f"interval '{value.total_seconds():.6f} seconds'"
        case _:
            text = str(value).replace("'", "''")
            return f"'{_LINE_ENDS.sub(_escaped, text)}'"


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
