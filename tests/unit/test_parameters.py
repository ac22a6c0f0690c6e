"""Finding `:now` in SQL: only where it is code, and nothing else is touched."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.parameters import Bound, Lexis, bind_now
from audience_sync.engines.duckdb_dialect import DuckdbDialect
from audience_sync.engines.mariadb_dialect import MariadbDialect
from audience_sync.engines.postgresql_dialect import PostgresqlDialect
from audience_sync.engines.sqlalchemy_engine import LEXES
from audience_sync.engines.sqlite_dialect import SqliteDialect
from audience_sync.errors import ConfigError

POSTGRES, SQLITE, DUCKDB = PostgresqlDialect.lexis, SqliteDialect.lexis, DuckdbDialect().lexis
MYSQL, SNOWFLAKE = MariadbDialect().lexis, LEXES["snowflake"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :now", "SELECT ?"),
        ("SELECT :now::date, x::now", "SELECT ?::date, x::now"),
        ("SELECT a FROM t WHERE b >= :now - interval '30 days'", "SELECT a FROM t WHERE b >= ? - interval '30 days'"),
        ("SELECT (:now), +:now,:now", "SELECT (?), +?,?"),
        ("SELECT ARRAY[:now]", "SELECT ARRAY[?]"),
        ("SELECT :now/* :now */--:now\n,:now", "SELECT ?/* :now */--:now\n,?"),
    ],
)
def test_now_is_replaced_where_it_is_code(sql: str, expected: str) -> None:
    """`:now` is found next to casts, operators, brackets and comments."""
    bound = bind_now(sql, "?", lexis=POSTGRES)

    assert bound.sql == expected
    assert bound.placeholders == expected.count("?")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ':now', 'it''s :now', '12:30:now'",
        "SELECT E'\\':now', e'\\\\', ':now'",
        'SELECT ":now", "a"":now"',
        "SELECT 1 -- :now it's\n",
        "SELECT 1 /* :now /* ' */ :later */",
        "SELECT $$ :now ' $$, $q$ $$ :now $q$",
        "SELECT a$b$ , c$b$",
        "SELECT a::timestamp, b::now",
        "SELECT tags[1:2], tags[1:n], tags[:n], tags[f(1):n], tags[lo:hi]",
        "SELECT '{\"a\":1}'::jsonb #>> '{a,b}', x ? 'k', a @> b, x := 1",
        "SELECT {'k':v}, foo:42",
        "(SELECT 1) UNION (SELECT 2)",
        "values (1)",
        "WITH a(b) AS (SELECT 1), delete AS (SELECT 2) SELECT * FROM delete FOR UPDATE",
        "WITH a AS (SELECT replace('a', 'b', 'c')) FROM a",
    ],
)
def test_text_without_a_parameter_is_left_alone(sql: str) -> None:
    """Colons in literals, names, comments, casts, slices and structs are no parameters."""
    assert bind_now(sql, "?", lexis=DUCKDB) == Bound(sql, ())


@pytest.mark.parametrize(
    ("sql", "lexis"),
    [
        ("SELECT [a :b], `c :d`", SQLITE),
        ("SELECT `c :d`", DUCKDB),
        ("SELECT 1 /* /* :a */", SQLITE),
        ("SELECT 'it\\'s :a', \"\\\":b\" # it's :c", MYSQL),
        ("SELECT src:now, src:a.b // it's :c", SNOWFLAKE),
    ],
)
def test_each_database_is_read_by_its_own_rules(sql: str, lexis: Lexis) -> None:
    """Brackets, backticks, backslashes and comments quote only where that database says so."""
    assert bind_now(sql, "?", lexis=lexis) == Bound(sql, ())


def test_a_backslash_ends_no_literal_in_standard_sql() -> None:
    r"""`'\'` is a whole literal in Postgres, so what follows is code."""
    assert bind_now(r"SELECT '\', :now", "?", lexis=POSTGRES) == Bound(r"SELECT '\', ?", (12,))


@pytest.mark.parametrize(
    ("sql", "doubled"),
    [
        ("SELECT 5 % 2 -- 1%\n", "SELECT 5 % 2 -- 1%\n"),
        ("SELECT :now WHERE a LIKE 'x%' AND 5 % 2 = 1", "SELECT %s WHERE a LIKE 'x%%' AND 5 %% 2 = 1"),
        ("SELECT :now -- 1%", "SELECT %s -- 1%%"),
        ("SELECT :now, '%s %%'", "SELECT %s, '%%s %%%%'"),
    ],
)
def test_percent_signs_are_doubled_only_with_parameters(sql: str, doubled: str) -> None:
    """A driver that formats its parameters in sees every other percent sign as itself."""
    assert bind_now(sql, "%s", lexis=POSTGRES, double_percent=True).sql == doubled
    assert bind_now(sql, "%s", lexis=POSTGRES).sql == sql.replace(":now", "%s")


@pytest.mark.parametrize("end", [";", " ; ", ";\n-- the end; it's over", "; /* :x */ ;;"])
def test_the_semicolon_at_the_end_goes(end: str) -> None:
    """Semicolons at the end and the comments behind them are dropped, so that the query can be wrapped."""
    assert bind_now(f"SELECT ';'{end}", "?", lexis=POSTGRES).sql.rstrip() == "SELECT ';'"


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1;\nSELECT 2", ["more than one statement", "line 2"]),
        ("SELECT *\nFROM t WHERE a > :since", [":since", "line 2", "the only parameter is :now"]),
        ("SELECT :Now", [":Now"]),
        ("SELECT :nowadays", [":nowadays"]),
        ("SELECT 'a", ["'a", "line 1"]),
        ('SELECT 1,\n"a', ['"a', "line 2"]),
        ("SELECT 1 /* /* */", ["/*", "line 1"]),
        ("SELECT $q$ $$", ["$q", "line 1"]),
        ("", ["empty"]),
        (" -- nothing\n;", ["empty"]),
        ("INSERT INTO t VALUES (1)", ["not a query", "'INSERT'"]),
        ("WITH a AS (SELECT 1), b AS (SELECT 2) /* SELECT */ DELETE FROM t", ["not a query", "'DELETE'"]),
        ("WITH a(x) AS (SELECT 1) insert INTO t SELECT * FROM a", ["not a query", "'insert'"]),
        ("/* SELECT */ drop table t", ["not a query", "'drop'"]),
        ("COPY (SELECT 1) TO 'file'", ["not a query"]),
    ],
)
def test_what_is_not_one_query_is_refused(sql: str, words: list[str]) -> None:
    """The sentence names what is wrong and its line."""
    with pytest.raises(ConfigError) as refused:
        bind_now(sql, "?", lexis=POSTGRES)

    assert [word for word in words if word not in str(refused.value)] == []


def test_an_unclosed_comment_is_refused_where_comments_do_not_nest() -> None:
    """SQLite ends a comment at its first end, and needs one."""
    with pytest.raises(ConfigError, match="ends without closing the"):
        bind_now("SELECT 1 /* a", "?", lexis=SQLITE)


PIECES = st.sampled_from(
    [
        *["'a:now'", "''", "'it''s'", "E'\\':now'", '":now"', '"a""b"', "$$;:now$$", "$t$ $$ $t$", "-- :now ';\n"],
        *["/* ; */", "/* /* ' */ */", "a::now", "b[1:n]", "x := 2", "{'k':v}", "%", "%%", "%s", "?", "@>", "\\", "é"],
        *["( ", ")", ",", " ", "\n", "1.5e3", "\u2028"],
    ]
)


@given(st.lists(PIECES), st.sampled_from(["", ";", ";\n;", " ; -- end"]))
def test_any_text_without_a_parameter_passes_unchanged(pieces: list[str], end: str) -> None:
    """Whatever the pieces, only the semicolon at the end is taken away."""
    sql = " ".join(["SELECT", *pieces])
    bound = bind_now(sql + end, "?", lexis=POSTGRES, double_percent=True)

    assert bound.placeholders == 0
    assert bound.sql == sql + (" " if end.startswith(" ") else "")


@given(st.lists(PIECES), st.lists(PIECES))
def test_a_parameter_is_found_in_any_surroundings(before: list[str], after: list[str]) -> None:
    """One `:now` in code is replaced, wherever it stands."""
    head, tail = " ".join(["SELECT", *before]), " ".join(after)
    bound = bind_now(f"{head} :now {tail}", "?", lexis=POSTGRES)

    assert bound == Bound(f"{head} ? {tail}", (len(head) + 1,))


@given(st.text(alphabet="'\"$/*-;:now[]`\\eE a1\n%"))
def test_no_text_breaks_it(text: str) -> None:
    """Any text is bound or refused with a sentence, never an accident."""
    for lexis in (POSTGRES, SQLITE, DUCKDB, MYSQL, SNOWFLAKE):
        with suppress(ConfigError):
            assert bind_now(f"SELECT {text}", "?", lexis=lexis).sql.startswith("SELECT")
