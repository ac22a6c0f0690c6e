"""Queries in DuckDB, and so in any file: JSON pointers, RE2, timestamps in UTC."""

from __future__ import annotations

from sqlalchemy.dialects.postgresql.base import PGDialect, PGIdentifierPreparer

from audience_sync.compiler.template_dialect import TemplateDialect, Templates
from audience_sync.core.parameters import Lexis


class _Quoted(PGIdentifierPreparer):
    """Names, all in quotes: DuckDB reserves other words than PostgreSQL."""

    def _requires_quotes(self, value: str) -> bool:
        del value
        return True


class _Sql(PGDialect):
    """PostgreSQL's SQL as DuckDB reads it."""

    preparer = _Quoted
    supports_statement_cache = False


def _pointer(name: str) -> str:
    """Return the path of one name; digits would be a place in a list as a pointer."""
    if name.isdigit():
        return f'$."{name}"'
    return "/" + name.replace("~", "~0").replace("/", "~1")


_TEMPLATES = Templates(
    sqlalchemy=lambda: _Sql(paramstyle="numeric_dollar"),  # type: ignore[no-untyped-call]
    lexis=Lexis(nested_comments=True, dollar_quotes=True, backticks=True),
    shown_parameter="${}",
    numbers=r"(u?(tiny|small|big|huge)int|u?integer|float|double|bignum|decimal\(.*\))",
    truths="boolean",
    texts="varchar",
    castable=r"uuid|enum\(.*\)",
    moments=r"date|timestamp(_(s|ms|ns|us))?( with time zone)?",
    dates="date",
    jsons="json",
    double="double",
    text="CAST({x} AS VARCHAR)",
    number="CAST({x} AS DOUBLE)",
    whole_key=r"regexp_replace(CAST({x} AS VARCHAR), '\.0+$', '')",
    instant="CAST({x} AS TIMESTAMP)",
    moment="CAST(CAST({x} AS TIMESTAMPTZ) AS TIMESTAMP)",
    milliseconds="make_timestamp(CAST({x} * 1000 AS BIGINT))",
    later="({x} + to_microseconds({microseconds}))",
    written="strftime({x}, '%Y-%m-%dT%H:%M:%S.%gZ')",
    written_date="strftime({x}, '%Y-%m-%d')",
    matches="regexp_matches({x}, {pattern})",
    position="strpos({x}, {part})",
    parse="CAST({x} AS JSON)",
    is_json="json_valid({x})",
    to_json="to_json({x})",
    json_kind="json_type({x})",
    null_kind="NULL",
    list_kind="ARRAY",
    string_kinds=("VARCHAR",),
    number_kinds=("UBIGINT", "BIGINT", "DOUBLE"),
    json_text="json_extract_string({x}, '$')",
    json_at="json_extract({x}, {path})",
    path=_pointer,
    elements="unnest(CAST({x} AS JSON[]))",
    list_of="to_json(array_agg({x} ORDER BY {x}))",
)


class DuckdbDialect(TemplateDialect):
    """DuckDB 1.1 and newer, whose time zone is UTC."""

    def __init__(self) -> None:
        super().__init__(_TEMPLATES)
