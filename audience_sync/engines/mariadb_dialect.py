"""Queries in MariaDB and MySQL: JSON is text, instants are DATETIME in UTC, texts compare as their bytes.

A CAST to CHAR gives text in the session's collation, which compares bytes (see `mariadb_servers`), whatever the
collation of the column; so every text of a table is read through one. MariaDB makes a part of a statement (WITH) anew
wherever it is used: rows are numbered in the order of their contents, which is the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql.base import MySQLCompiler, MySQLDialect, MySQLIdentifierPreparer
from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.ascii_patterns import in_ascii
from audience_sync.compiler.dialect import Expression, Timeline, Truth
from audience_sync.compiler.template_dialect import TemplateDialect, Templates
from audience_sync.core.parameters import Lexis

_TEXTS = ("char", "varchar", "text")
_CAST = ("binary", "varbinary", "blob", "enum", "set", "time", "geometry")  # read as text, too
_BITS = "bit"
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)  # before it is only 0000-00-00, which stands for no date
_ANYWHERE = {r"\v": r"\x0B"}  # here `\v` is any line break
_WORD = "[A-Za-z0-9_]"
_OUTSIDE = {
    "$": r"\z",  # `$` also stands before a last line feed
    r"\b": f"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))",
    r"\B": f"(?:(?<={_WORD})(?={_WORD})|(?<!{_WORD})(?!{_WORD}))",
}
_TYPES: Sequence[tuple[type[sa.types.TypeEngine[Any]], str]] = (
    (sa.Text, "CHAR"),
    (sa.Double, "DOUBLE"),
    (sa.Integer, "SIGNED"),
    (sa.DateTime, "DATETIME(6)"),
    (sa.Date, "DATE"),
)
_ZONE = "[-+][0-9][0-9]:[0-9][0-9]$"


class _InBackticks(MySQLIdentifierPreparer):
    """Names, all in backticks: MariaDB and MySQL reserve different words."""

    def _requires_quotes(self, value: str) -> bool:
        del value
        return True


class _MysqlWriter(MySQLCompiler):
    """SQL that needs no server to be asked for its version first."""

    def visit_cast(self, cast: sa.Cast[Any], **options: Any) -> str:
        """Write a cast to one of the types that casts here are made to."""
        expression = self.process(cast.clause, **options)
        if isinstance(cast.type, sa.Boolean):
            return f"({expression} <> 0)"
        name = next(name for kind, name in _TYPES if isinstance(cast.type, kind))
        return f"CAST({expression} AS {name})"

    def visit_length_func(self, function: sa.Function[Any], **options: Any) -> str:
        """Write the length of a text in characters: LENGTH counts bytes here."""
        return f"CHAR_LENGTH{self.function_argspec(function, **options)}"


class _MysqlSql(MySQLDialect):
    """MySQL's SQL, as MariaDB reads it, too."""

    preparer = _InBackticks
    statement_compiler = _MysqlWriter
    supports_statement_cache = False


_TEMPLATES = Templates(
    sqlalchemy=lambda: _MysqlSql(paramstyle="format"),
    lexis=Lexis(backslashes=True, backticks=True, line_comments=("--", "#")),
    shown_parameter="%({})s",
    numbers="tinyint|smallint|mediumint|int|bigint|float|double|decimal|year|bit",
    truths="boolean",
    texts="|".join((*_TEXTS, *_CAST)),
    castable="null",
    moments="date|datetime|timestamp",
    dates="date",
    jsons="json",
    double="double",
    text="CAST({x} AS CHAR)",
    number="CAST({x} AS DOUBLE)",
    whole_key="REGEXP_REPLACE(CAST({x} AS CHAR), '[.]0+$', '')",
    instant="CASE WHEN LEAST(YEAR({x}), MONTH({x}), DAYOFMONTH({x})) > 0 THEN {x} END",
    moment=(
        f"(CAST(REGEXP_REPLACE({{x}}, 'Z$|{_ZONE}', '') AS DATETIME(6))"
        f" - INTERVAL IF({{x}} REGEXP '{_ZONE}', RIGHT({{x}}, 6), '0:0') HOUR_MINUTE)"
    ),
    milliseconds="(TIMESTAMP'1970-01-01 00:00:00' + INTERVAL CAST({x} * 1000 AS SIGNED) MICROSECOND)",
    later="({x} + INTERVAL {microseconds} MICROSECOND)",
    written="CONCAT(LEFT(DATE_FORMAT({x}, '%Y-%m-%dT%H:%i:%s.%f'), 23), 'Z')",
    written_date="DATE_FORMAT({x}, '%Y-%m-%d')",
    matches="({x} REGEXP {pattern})",
    position="INSTR({x}, {part})",
    parse="{x}",
    is_json="JSON_VALID({x})",
    to_json="JSON_EXTRACT(JSON_ARRAY({x}), '$[0]')",
    json_kind="JSON_TYPE({x})",
    null_kind="NULL",
    list_kind="ARRAY",
    string_kinds=("STRING",),
    number_kinds=("INTEGER", "UNSIGNED INTEGER", "DOUBLE", "DECIMAL"),  # MariaDB: INTEGER and DOUBLE
    json_text="CASE WHEN JSON_TYPE({x}) <> 'NULL' THEN CAST(JSON_UNQUOTE({x}) AS CHAR) END",
    json_at="JSON_EXTRACT({x}, {path})",
    path=lambda name: f"$.{json.dumps(name, ensure_ascii=False)}",
    elements="JSON_TABLE({x}, '$[*]' COLUMNS (value JSON PATH '$'))",
    elements_are_named=True,
    list_of="CONCAT('[', GROUP_CONCAT(CAST(JSON_QUOTE({x}) AS CHAR) ORDER BY {x} SEPARATOR ','), ']')",
)


class MariadbDialect(TemplateDialect):
    """MariaDB 10.6, MySQL 8.0.21 and newer, in a session that `mariadb_servers` has set up."""

    joins_existence = False  # an EXISTS with times to compare is asked for every row
    materializes = False

    def __init__(self) -> None:
        super().__init__(_TEMPLATES)

    def readable(self, rows: FromClause, types: Mapping[str, str], sought: tuple[str, str] | None = None) -> FromClause:
        """Return rows whose texts compare as bytes, and whose bits are numbers.

        An index on a column is in the column's own collation, to which texts of the same bytes are equal, too.
        """

        def read(name: str, kind: str) -> Expression:
            column: Expression = rows.c[name]
            if kind in (*_TEXTS, *_CAST):
                return sa.cast(column, sa.Text)
            return column + sa.literal_column("0") if kind == _BITS else column

        found = sa.select(*[read(name, kind).label(name) for name, kind in types.items()]).select_from(rows)
        if sought is not None and types[sought[0]] in _TEXTS:
            found = found.where(rows.c[sought[0]] == sa.literal(sought[1], sa.Text))
        return found.subquery()

    def numbering(self, columns: Sequence[Expression]) -> Sequence[Expression]:
        """Return a hash of the columns: rows that have the same may change their numbers."""
        return (sa.func.md5(sa.func.json_array(*[sa.cast(column, sa.Text) for column in columns])),)

    def timeline(self, column: Expression, kind: str) -> Timeline:
        """Return the time of an event; a column of times is compared as it is, as an index on it has it."""
        found = super().timeline(column, kind)
        is_moment = kind in ("date", "datetime", "timestamp")
        return replace(found, instant=column, earliest=_EARLIEST) if is_moment else found

    def own_pattern(self, pattern: str) -> Expression:
        """Return a regular expression of ours as part of the text, in which a backslash is written twice."""
        return sa.literal_column("'" + _translated(pattern).replace("\\", "\\\\") + "'")

    def matches(self, text: Expression, pattern: str) -> Truth:
        """Return whether a regular expression is found."""
        return super().matches(text, _translated(pattern))


def _translated(pattern: str) -> str:
    return in_ascii(pattern, _ANYWHERE, _OUTSIDE)
