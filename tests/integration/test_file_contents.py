"""Files are read line by line and value by value, and errors name both."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audience_sync.config import Source
from audience_sync.core.model import ColumnType, DateOrder
from audience_sync.engines import columns, open_rows
from audience_sync.engines.csv_views import look_at, read_csv
from audience_sync.engines.file_lines import fault_in_csv
from audience_sync.errors import SourceError

AS_OF = datetime(2026, 11, 12, tzinfo=UTC)
CORRECT = "correct the file; nothing was changed"

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a file."""

    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def files(path: Path | str, **wanted: object) -> Source:
    """Return a source of one view, `f`."""
    source = Source(
        name="f",
        url=None,
        files={"f": str(path)},
        memory_limit="256MB",
        statement_timeout=timedelta(minutes=1),
        events=None,
        profiles=None,
    )
    return source.model_copy(update=wanted)


def read(source: Source | Path, sql: str = "FROM f") -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    source = files(source) if isinstance(source, Path) else source
    with open_rows(source, sql, as_of=AS_OF) as rows:
        return [row for page in rows.pages() for row in page]


def refused(source: Source | Path, sql: str = "FROM f") -> tuple[str, str | None]:
    """Return the sentence and the hint that a query ends with."""
    with pytest.raises(SourceError) as caught:
        read(source, sql)
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a,b\n1,x\n2,y,extra\n3,z\n", 3, "the row has 3 fields separated by ',', but the first line has 2"),
        ("a,b\n1,x\n2\n3,z\n", 3, "the row has 1 field separated by ',', but the first line has 2"),
        ("a,b\n1,x\n   \n", 3, "the row has 1 field separated by ',', but the first line has 2"),
        ("a;b\n1;x\n2;y;z\n", 3, "the row has 3 fields separated by ';', but the first line has 2"),
        ('a,b\n1,"x\ny"\n\n2,"x\r\ny"\n3\n', 7, "the row has 1 field separated by ',', but the first line has 2"),
        ("a\n1\n2,x\n", 3, "the row has 2 fields separated by ',', but the first line has 1"),
        ("a,b\r\n1,x\n2\r\n", 3, "the row has 1 field separated by ',', but the first line has 2"),
        ("a,b\r1,x\r2\r", 3, "the row has 1 field separated by ',', but the first line has 2"),
        ('a,b\n1,"x\n3,z\n', 2, "a quoted value is never closed"),
        ('a,b\n0,"w\nw"\n1,"x\n3,z\n4,z\n', 4, "a quoted value is never closed"),
        ('a,b\n1,"x""\n', 2, "a quoted value is never closed"),
        ('a,b\r\n1,"x\r\n3,z\r\n', 2, "a quoted value is never closed"),
        ('a,b\n1,"x" y\n', 2, "there is text after the closing quotation mark of a value"),
        ('a,b\n1,"x\n2,y\n3,"z"\n', 2, "there is text after the closing quotation mark of a value"),
        (b"a,b\n1,x\n2,\xff\n", 3, "not valid UTF-8"),
        (b'a,b\n1,"x\nx"\n2,\xff\n', 4, "not valid UTF-8"),
        (b"a,\xe9\n1,x\n", 1, "not valid UTF-8"),
    ],
)
def test_a_malformed_row_of_csv_is_told_by_its_line(write: Write, text: str | bytes, line: int, what: str) -> None:
    """The line is the one an editor shows, also below values of several lines; no other row is passed over."""
    path = write("m.csv", text)
    sentence, hint = refused(path, "FROM f" if isinstance(text, bytes) else "SELECT a FROM f")

    assert sentence == f"The file {path}, line {line}: {what}."
    assert hint == ("save it as UTF-8" if line == 1 else CORRECT)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\r\n1,x\n2,y\r\n", [("1", "x"), ("2", "y")]),
        ("a,b\n1,x\r\n2,y\n", [("1", "x"), ("2", "y")]),
        ("a,b\r1,x\n2,y\r\n", [("1", "x"), ("2", "y")]),
        ("a,b\r1,x\r2,y", [("1", "x"), ("2", "y")]),
        ('a,b\r\n1,"x\ny"\r\n2,"y\rz"\n', [("1", "x\ny"), ("2", "y\rz")]),
        ('a,b\r\n1,"say ""hi"",\r\nthen"\n2,5" pipe\r\n', [("1", 'say "hi",\r\nthen'), ("2", '5" pipe')]),
        ("a,b\n\n1,x\n\n\n2,y\n\n", [("1", "x"), ("2", "y")]),
        ("a,b,\n1,x,\n2,y,\n", [("1", "x"), ("2", "y")]),
        ("a,,b\n1,?,x\n", [("1", "x")]),
        ('"a" , b\n1, x\n', [("1", " x")]),
        ('"a\nz",b\n1,x\n', [("1", "x")]),
        ("\ufeffa,b\n1,x\n", [("1", "x")]),
        ("a,b\n\\N,NULL\n", [("\\N", "NULL")]),
        ("a,b\n#1,//x\n", [("#1", "//x")]),
        ("a,b\n1,x\x1a\n2,y\n", [("1", "x\x1a"), ("2", "y")]),
        ("a,b\n1,\u2028\x85\n", [("1", "\u2028\x85")]),
    ],
)
def test_csv_is_read_as_it_is_written(write: Write, text: str, rows: list[tuple[str, str]]) -> None:
    """Any line ends and blank lines, quotation marks, a byte order mark, separators at the end, odd characters."""
    assert sorted(read(write("m.csv", text))) == rows


TOKENS = ["a", "1", "x y", ",", ",", ",", '"', '"', '"b,"', '""', "\n", "\n", "\r\n", "\r", " ", "é", '"q\nr"', "\0"]


@example(body=",, ", end="\n")
@example(body=',, ""', end="\n")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.lists(st.sampled_from(TOKENS), max_size=12).map("".join), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_csv_agrees_with_another_reader(tmp_path: Path, body: str, end: str) -> None:
    """Rows are those of Python's reader in its strict mode, or the file is refused and a line is named.

    Blanks around quotation marks are left out: there the two readers differ.
    """
    path = tmp_path / "m.csv"
    path.write_bytes(f"h1,h2{end}{body}".encode())
    folder = tmp_path / "copies"
    folder.mkdir(exist_ok=True)
    file = look_at(str(path), None)
    found: list[tuple[object, ...]] | None = None
    if not file.is_open:
        with suppress(duckdb.Error):
            found = read_csv(duckdb.default_connection(), [file], folder).fetchall()
    expected = rows_of_python(path)

    if ' "' in body or '" ' in body:
        return
    if expected is None:
        assert found is None
        assert fault_in_csv(file) is not None
    elif found is not None:
        assert sorted(found, key=repr) == sorted(expected, key=repr)


def rows_of_python(path: Path) -> list[tuple[str | None, ...]] | None:
    """Return the rows below the first line, None if one is malformed."""
    try:
        _, *rows = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True)
    except csv.Error:
        return None
    rows = [row for row in rows if row]
    if any(len(row) < 2 or any(row[2:]) for row in rows):
        return None
    return [tuple(value or None for value in row[:2]) for row in rows]


def test_separators_are_told_by_the_first_line(write: Write) -> None:
    """The most frequent one outside quotation marks counts; two as frequent are refused, unless the setting decides."""
    assert read(write("m.csv", '"x,y";b;c,d\n1;2;3,4\n'), 'SELECT "x,y", "c,d" FROM f') == [("1", "3,4")]
    path = write("n.csv", "a,b;c\n1,2;3\n")
    assert refused(path) == (
        f"The separator of the file {path} is ambiguous: the first line has as many ',' as ';'.",
        'set `separator` for the source, as in separator = ";"',
    )
    assert read(files(path, separator=";")) == [("1,2", "3")]
    assert read(files(write("o.csv", "a~b\n1~2\n"), separator="~")) == [("1", "2")]


@pytest.mark.parametrize(
    ("name", "separator", "other"),
    [("f.csv", ",", ";"), ("f.csv", ";", "\t"), ("f.csv", "~", "|"), ("f.tsv", None, ",")],
)
def test_another_separator_than_the_first_line_has(write: Write, name: str, separator: str | None, other: str) -> None:
    """A wrong `separator` makes one column of all: it is named, instead of a column that the query does not find."""
    path = write(name, f"id{other}spend\n1{other}2\n")
    column = f"id{other}spend"

    sentence, hint = refused(files(path, separator=separator), "SELECT id FROM f")

    assert sentence == (
        f"The file {path} has a single column {column!r}: its first line contains {other!r}, but not"
        f" the separator {separator or chr(9)!r}."
    )
    assert hint == f"set separator = {json.dumps(other)} for the source, or put the column name in quotes"
    assert read(files(path, separator=other), "SELECT id FROM f") == [("1",)]
    assert read(files(write(name, f'"{column}"\n1\n'), separator=separator)) == [("1",)]


@pytest.mark.parametrize(
    ("header", "named"), [("a,b,a", "'a'"), ("a,A,b", "'a' and 'A'"), ('a," a"', "'a'"), ("a;b;B", "'b' and 'B'")]
)
def test_columns_of_one_name_are_refused(write: Write, header: str, named: str) -> None:
    """SQL could not tell them apart, so a file does not choose one of them."""
    path = write("m.csv", f"{header}\n1{';' if ';' in header else ','}2\n")

    assert refused(path) == (
        f"The file {path} has more than one column {named}.",
        "give each column in the first line a unique name",
    )


def test_columns_of_one_name_are_refused_in_parquet(write: Write, tmp_path: Path) -> None:
    """Parquet may have two columns of one name, too; what lies inside a column may be called as it likes."""
    path = tmp_path / "m.parquet"
    written = "SELECT 1 AS column_x, 2 AS column_y, {'column_x': 1} AS s"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({written}) TO '{path}' (FORMAT parquet)")
    assert read(path) == [(1, 2, {"column_x": 1})]
    write("m.parquet", path.read_bytes().replace(b"column_y", b"column_x"))

    assert refused(path) == (
        f"The file {path} has more than one column 'column_x'.",
        "give each column a unique name",
    )


def test_long_lines_are_read(write: Write) -> None:
    """A line may have some millions of characters; one that is longer than eight is refused."""
    assert read(write("m.csv", "a,b\n1," + "x" * 5_000_000 + "\n"), "SELECT a, length(b) FROM f") == [("1", 5_000_000)]
    path = write("n.csv", "a,b\n0,x\n1," + "x" * 9_000_000 + "\n")
    assert refused(path) == (f"The file {path}, line 3: the row is longer than 8,000,000 bytes.", CORRECT)


def test_numbers_of_json_keep_their_digits(write: Write) -> None:
    """A whole number of any length is its digits; any other number shows that it is none; null is as missing."""
    values = ["92233720368547758079", "92233720368547758080", "7", "-5", "12.50", "1.0", "1e3", "1E+22", "true", "null"]
    values += ['"007"', '"12.50"', '{"a": 1}', "[1, 2]", '"\\ud83d\\ude00"', '"a\\u0000b"', '""']
    path = write(
        "m.ndjson", "".join(f'{{"n": {n}, "id": {value}}}\n' for n, value in enumerate(values)) + '{"n": 99}\n'
    )

    assert [value for (value,) in read(path, "SELECT id FROM f ORDER BY n::int")] == [
        *("92233720368547758079", "92233720368547758080", "7", "-5", "12.5", "1.0", "1000.0", "1e+22", "true", None),
        *("007", "12.50", '{"a":1}', "[1,2]", "😀", "a\0b", "", None),
    ]


def test_a_key_that_comes_late_is_a_column(write: Write) -> None:
    """Every line of a file is looked at for its keys, however far down."""
    path = write("m.ndjson", '{"a": "x"}\n' * 30_000 + '{"a": "y", "late": 1.5}\n')

    assert read(path, "SELECT a, late FROM f WHERE late IS NOT NULL") == [("y", "1.5")]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('{"a": 1}\n\n{"a": 2, "b', 3, "not valid JSON: unexpected end of data"),
        ('{"a": 1}\n{"a": "\\ud83d"}\n', 2, "not valid JSON: no low surrogate in string"),
        (
            '{"a": "\\ud83d"}\n{"a": 1}\n',
            1,
            "it contains a lone surrogate such as \\ud83d, which is half of a character",
        ),
        (
            '{\n"a": 1}\n{"b":\n"\\udc00"}',
            3,
            "it contains a lone surrogate such as \\ud83d, which is half of a character",
        ),
        (b'{"a": 1}\n{"a": "\xff"}\n', 2, "not valid UTF-8"),
        ('{"a": 1}\n5\n', 2, "not a JSON object"),
        ('{"a": 1}\nnull\n', 2, "not a JSON object"),
        ('{"a": 1}\n[{"a": 2}]\n', 2, "not a JSON object"),
        ('{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', 2, "an object has the key 'a' twice"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}\n{"a": 2, "a": 3}\n', 2, "an object has the key 'a' twice"),
        ('[{"a": 1}, {"a": 2, "a": 3}]', None, "an object has the key 'a' twice"),
        ('[\n {"a": 1},\n {"a": 2, "a": 3}\n]', None, "an object has the key 'a' twice"),
        ('{"a": 1}\n{"a": 2},\n', 2, "not valid JSON: unexpected content after document"),
        ('[\n {"a": 1},\n {"a": }\n]\n', 3, "not valid JSON: Expecting value"),
        ('[{"a": 1}, 5]', None, "not a JSON object"),
        ("[1, 2]\n", None, "not a JSON object"),
    ],
)
def test_a_malformed_row_of_json_is_told_by_its_line(
    write: Write, text: str | bytes, line: int | None, what: str
) -> None:
    """The line is named where a row has one of its own."""
    path = write("m.ndjson", text)

    where = f"The file {path}" if line is None else f"The file {path}, line {line}"
    assert refused(path, "SELECT a FROM f") == (f"{where}: {what}.", CORRECT)


def test_a_key_that_stands_twice_is_refused_where_it_is_used(write: Write) -> None:
    """A query that does not use the key reads the row; within an object in a row, the first of the two counts."""
    path = write("m.ndjson", '{"a": 1, "b": 2, "b": 3, "c": {"d": 4, "d": 5}}\n')

    assert read(path, "SELECT a, c->>'$.d' FROM f") == [("1", "4")]
    assert refused(path, "SELECT b FROM f") == (
        f"The file {path}, line 1: an object has the key 'b' twice.",
        CORRECT,
    )


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff{"a": 1}\n{"a": 2}\n',
        '{"a": 1}\r\n\r\n{"a": 2}',
        '{"a": 1}\r{"a": 2}\r',
        '{"a": 1}{"a": 2}',
        '{\n  "a": 1\n}\n{\n  "a": 2\n}\n',
        '\n [{"a": 1},\n {"a": 2}]',
    ],
)
def test_json_is_read_however_it_is_laid_out(write: Write, text: str) -> None:
    """Objects of one line or of many, a list, a byte order mark, any line ends."""
    assert sorted(read(write("m.ndjson", text))) == [("1",), ("2",)]


def test_keys_that_differ_in_case_alone_are_refused_where_they_are_used(write: Write) -> None:
    """SQL takes them for one column: nobody is given the value of one for the other. Other columns are read."""
    path = write("m.ndjson", '{"Url": 1, "url": 2, "x": 3}\n{"x": 4}\n')

    assert sorted(read(path, "SELECT x FROM f")) == [("3",), ("4",)]
    assert read(path, "SELECT count(*) FROM f") == [(2,)]
    for sql in ("SELECT url FROM f", "SELECT x FROM f WHERE \"URL\" = '1'"):
        assert "the keys Url and url differ only in case, and SQL treats them as one column" in refused(path, sql)[0]


TIME = {"seen": ColumnType.TIME}


@pytest.mark.parametrize("name", ["m.csv", "m.ndjson"])
def test_a_date_of_which_day_and_month_are_not_known_is_told_by_its_place(write: Write, name: str) -> None:
    """The sentence names line, column and value, the hint the setting; with the setting every row has one meaning."""
    rows = [("1", "2026-11-01"), ("2", "11/05/2026"), ("3", "11/10/2026"), ("4", "05/11/2026")]
    csv_text = "user_id,seen\n" + "".join(f"{user},{seen}\n" for user, seen in rows)
    json_text = "".join(f'{{"user_id": {user}, "seen": "{seen}"}}\n' for user, seen in rows)
    path = write(name, csv_text if name == "m.csv" else json_text)
    line = 3 if name == "m.csv" else 2
    told = f'The file {path}, line {line}, column seen: "11/05/2026" is an ambiguous date: day or'
    recent = "SELECT user_id FROM f WHERE {} >= :now - INTERVAL 30 DAY ORDER BY 1"

    for source, sql in ((files(path, types=TIME), "seen"), (files(path), "parse_time(seen)")):
        assert refused(source, recent.format(sql)) == (
            f"{told} month may come first.",
            'set date_order = "dmy" or date_order = "mdy" in [sources.f]',
        )
    american = files(path, types=TIME, date_order=DateOrder.MDY)
    european = files(path, types=TIME, date_order=DateOrder.DMY)
    assert read(american, recent.format("seen")) == [("1",), ("2",), ("3",)]
    assert read(european, recent.format("seen")) == [("1",), ("4",)]


@pytest.mark.parametrize(
    ("kind", "value", "what", "hint"),
    [
        ("time", "soon", "is not a time: it must be ISO 8601, a date or a Unix time", "correct the file, or convert"),
        ("time", "2026-02-30", "is not a time: it must be ISO 8601, a date or a Unix time", "correct the file, or co"),
        ("number", "1,5", "is not a JSON number such as 12.5", "correct the file, or convert the column"),
        ("number", "9007199254740993", "has too many digits to be stored exactly", "keep the column as text"),
    ],
)
def test_a_value_that_is_not_of_its_type_is_told_by_its_place(
    write: Write, kind: str, value: str, what: str, hint: str
) -> None:
    """The same, for a value beyond the first rows, and not for the same text in another column."""
    good = {"time": "2026-11-20 10:00:00", "number": "1.5"}[kind]
    text = "user_id,other,x\n" + f'u,"{value}",{good}\n' * 25_000 + f'u,o,"{value}"\n'
    source = files(write("m.csv", text), types={"x": ColumnType(kind)})
    sentence, remedy = refused(source, "SELECT user_id FROM f WHERE x IS NOT NULL")

    assert sentence == f'The file {source.files["f"]}, line 25002, column x: "{value}" {what}.'
    assert (remedy or "").startswith(hint)


@pytest.mark.parametrize(
    ("sql", "column", "kind"),
    [
        ("SELECT user_id FROM f WHERE seen >= :now - INTERVAL 30 DAY", "seen", "time"),
        ("SELECT user_id FROM f\nWHERE other = 'x'\n  AND seen >= TIMESTAMP '2026-01-01'", "seen", "time"),
        ("SELECT f.seen - INTERVAL 1 DAY, user_id FROM f", "seen", "time"),
        ("SELECT user_id FROM f WHERE amount > 5", "amount", "number"),
        ("SELECT sum(amount) FROM f", "amount", "number"),
    ],
)
def test_sql_that_takes_text_for_something_else_is_refused_with_the_remedy(
    write: Write, sql: str, column: str, kind: str
) -> None:
    """Nothing is compared as text in silence: the hint is the setting for that column."""
    path = write("m.csv", "user_id,amount,seen,other\n1,5.3,2026-11-20,x\n")
    sentence, hint = refused(path, sql)

    assert "Binder Error" in sentence
    assert hint == (
        f'columns of CSV and JSON files are text; set types = {{ {column} = "{kind}" }} in [sources.f], '
        f"or use parse_{kind}({column}) in the SQL"
    )


def test_a_type_for_a_column_that_is_not_there_is_refused(write: Write) -> None:
    """A misspelt name is not passed over."""
    path = write("m.csv", "user_id,seen\n1,2026-11-20\n")

    assert refused(files(path, types={"sen": ColumnType.TIME})) == (
        "`types` names the column 'sen', but no file in [sources.f] has it.",
        "the files have the columns seen, user_id",
    )


def test_parquet_keeps_its_types_and_its_texts_can_have_one(tmp_path: Path) -> None:
    """A declared type is for a column of text; one that has a type keeps it."""
    path = tmp_path / "m.parquet"
    written = "SELECT 1.5::DECIMAL(5,2) AS n, '2026-11-20T10:00:00+02:00' AS t"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({written}) TO '{path}' (FORMAT parquet)")
    source = files(path, types={"n": ColumnType.NUMBER, "t": ColumnType.TIME})

    assert [one.type for one in columns(source, "FROM f", as_of=AS_OF)] == ["decimal(5,2)", "timestamp"]


def test_a_file_that_cannot_be_opened_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the file and the reason."""
    path = write("m.csv", "a\n1\n")

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("audience_sync.engines.csv_views.open_bytes", forbidden)
    monkeypatch.setattr("audience_sync.engines.file_access.open_bytes", forbidden)
    assert refused(path) == (
        f"The file {path} cannot be read: Permission denied.",
        "check that the file exists and is complete",
    )
