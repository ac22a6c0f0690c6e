"""CSV and JSON files: columns without types, in which numbers and times are text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa

from audience_sync.compiler.dialect import Expression, Timeline, Value, fixed
from audience_sync.compiler.scalars import TextValue
from audience_sync.engines import file_engine
from audience_sync.engines.duckdb_dialect import DuckdbDialect


class TextFileDialect(DuckdbDialect):
    """DuckDB's SQL for columns of text; `text_conversions` reads times."""

    def column(self, column: Expression, kind: str) -> Value:
        """Return a column as a value; a text may stand for a number or a boolean."""
        return _FileText(column, self) if kind == "varchar" else super().column(column, kind)

    def inside_column(self, column: Expression, kind: str, path: tuple[str, ...]) -> Value:
        """Return what lies at a path in a column; there is nothing in a text that is not JSON."""
        if kind == "varchar":
            column = sa.case((sa.func.json_valid(column), column))
        return self.inside(column, kind, path)

    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event."""
        if kind != "varchar":
            return super().timeline(column, kind)
        return super().timeline(sa.func.try_parse_event_time(column), "timestamp")

    def moment_of_text(self, text: Expression) -> Expression:
        """Return a text as a timestamp in UTC."""
        return sa.func.try_parse_time(text)


@dataclass(frozen=True)
class _FileText(TextValue):
    """A column of text, in which numbers and booleans are what JSON writes for them."""

    def json(self) -> Expression:
        """Return it as JSON: digits stay as they are written."""
        text = self.expression
        is_number = self.dialect.number_of_text(text).is_not(None)
        is_literal = sa.or_(is_number, text.in_([fixed("true"), fixed("false")]))
        return sa.case((is_literal, self.dialect.document(text).json()), else_=super().json())


ENGINE = replace(file_engine.ENGINE, dialect=TextFileDialect())
