"""Files as a source: what is in them arrives as it is written, and what is wrong with them is told."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from audience_sync.config import Source
from audience_sync.core.model import ColumnType
from audience_sync.engines import Column, Statement, columns, open_rows, ping, probe, table_columns
from audience_sync.engines.registry import engine_name
from audience_sync.errors import ConfigError, SourceError

AS_OF = datetime(2026, 3, 31, 12, 0, 30, tzinfo=UTC)
MANY = 30_000  # rows, more than DuckDB looks at to guess types


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, which must be empty again in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def files(memory_limit: str = "256MB", limit: timedelta = timedelta(minutes=1), **paths: Path | str) -> Source:
    """Return a source of files, by the name of their view."""
    return Source(
        name="shop",
        url=None,
        files={view: str(path) for view, path in paths.items()},
        memory_limit=memory_limit,
        statement_timeout=limit,
        events=None,
        profiles=None,
    )


def read(path: Path | str, sql: str | Statement = "FROM shop") -> list[tuple[object, ...]]:
    """Return the rows of a query on a file, or on the files that fit a glob."""
    return rows_of(files(shop=path), sql)


def rows_of(source: Source, sql: str | Statement) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    with open_rows(source, sql, as_of=AS_OF) as rows:
        return [row for page in rows.pages() for row in page]


def types(path: Path | str) -> dict[str, str]:
    """Return the types of the columns of a file."""
    return {column.name: column.type for column in columns(files(shop=path), "FROM shop", as_of=AS_OF)}


def refusal(path: Path | str, sql: str | Statement = "FROM shop") -> SourceError:
    """Return the error that reading a file ends with: one sentence that names the file."""
    with pytest.raises(SourceError) as caught:
        read(path, sql)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    return caught.value


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a file, line ends as they are."""
    path.write_bytes(text.encode(encoding))
    return path


def write_lines(path: Path, *objects: object) -> Path:
    """Write a file of JSON, one object a line."""
    return write(path, "".join(f"{json.dumps(one)}\n" for one in objects))


def test_csv_arrives_as_it_is_written(tmp_path: Path) -> None:
    """Quotes, separators and line breaks in quotes, Unicode, a byte order mark and missing values."""
    text = '\ufeffuser_id,name,note\r\nu1,"Smith, ""Jo""","two\nlines"\r\nü2,Zoë,\r\n#3,\'x\',""\r\n'

    assert read(write(tmp_path / "members.csv", text)) == [
        ("u1", 'Smith, "Jo"', "two\nlines"),
        ("ü2", "Zoë", None),
        ("#3", "'x'", None),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "user_id;price\nu1;1,5\n"),
        ("m.csv", "user_id|price\nu1|1,5\n"),
        ("m.TSV", "user_id\tprice\nu1\t1,5\n"),
        ("m.tsv", 'user_id\tprice\nu1\t"1,5"\n'),
    ],
    ids=["semicolons", "bars", "tabs", "quotes"],
)
def test_separators_are_found(tmp_path: Path, name: str, text: str) -> None:
    """A file may be separated by semicolons, bars or tabs; a comma is then part of a value."""
    assert read(write(tmp_path / name, text), "SELECT user_id, price FROM shop") == [("u1", "1,5")]


def test_csv_is_text(tmp_path: Path) -> None:
    """Every column of CSV is text, as it is written, whatever all of its rows look like."""
    path = write(
        tmp_path / "members.csv",
        "user_id,n,price,day,at,instant,vip,big\n"
        "007,1,1.50,2024-02-29,2024-02-29 10:00:00,2024-02-29T10:00:00+02:00,yes,12345678901234567890\n",
    )

    assert set(types(path).values()) == {"varchar"}
    assert read(path) == [
        (
            "007",
            "1",
            "1.50",
            "2024-02-29",
            "2024-02-29 10:00:00",
            "2024-02-29T10:00:00+02:00",
            "yes",
            "12345678901234567890",
        )
    ]


def test_columns_have_the_types_that_the_source_declares(tmp_path: Path) -> None:
    """A declared column is a number or an instant in UTC, converted value by value."""
    path = write(
        tmp_path / "members.csv",
        "user_id,Price,day,instant\n007,1.50,2024-02-29,2024-02-29T10:00:00+02:00\nu2,2,2024-03-01,1709193600\nu3,,,\n",
    )
    declared = {"price": ColumnType.NUMBER, "day": ColumnType.TIME, "instant": ColumnType.TIME}
    source = files(shop=path).model_copy(update={"types": declared})

    assert {one.name: one.type for one in columns(source, "FROM shop", as_of=AS_OF)} == {
        "user_id": "varchar",
        "Price": "double",
        "day": "timestamp",
        "instant": "timestamp",
    }
    assert rows_of(source, "FROM shop ORDER BY user_id") == [
        ("007", 1.5, datetime(2024, 2, 29), datetime(2024, 2, 29, 8)),  # noqa: DTZ001 - UTC without saying so
        ("u2", 2.0, datetime(2024, 3, 1), datetime(2024, 2, 29, 8)),  # noqa: DTZ001
        ("u3", None, None, None),
    ]
    assert rows_of(source, "SELECT user_id FROM shop WHERE price > 1.7 AND day < :now") == [("u2",)]


@pytest.mark.parametrize("late", ["007", "1.5", "+5", "x", "1e3", " 5", "9007199254740993", "18446744073709551617"])
@pytest.mark.parametrize("ending", ["csv", "ndjson"])
def test_an_identifier_is_never_changed(tmp_path: Path, late: str, ending: str) -> None:
    """A text far down in a column of whole numbers is that text, and its neighbours are what they are."""
    if ending == "csv":
        path = write(tmp_path / "m.csv", "user_id,a\n" + "".join(f"{i},x\n" for i in range(1, MANY)) + f"{late},y\n")
    else:
        lines = [{"user_id": i, "a": "x"} for i in range(1, MANY)]
        path = write_lines(tmp_path / "m.ndjson", *lines, {"user_id": late, "a": "y"})

    assert read(path, "SELECT user_id FROM shop WHERE a = 'y'") == [(late,)]
    assert read(path, "SELECT user_id FROM shop WHERE user_id = '29999'") == [("29999",)]


def test_quotes_far_down_are_quotes(tmp_path: Path) -> None:
    """A file whose first quoted value comes late is read like any other."""
    text = "user_id,name\n" + "".join(f"u{i},x\n" for i in range(MANY)) + '"u ""z""","a, b"\n'

    assert read(write(tmp_path / "m.csv", text), "FROM shop WHERE name <> 'x'") == [('u "z"', "a, b")]


@pytest.mark.parametrize("row", ["q", "q,w,r"])
def test_rows_of_another_length_lose_no_other_row(tmp_path: Path, row: str) -> None:
    """A short or long row is refused, at the top or far down: its neighbours are never passed over."""
    few = write(tmp_path / "few.csv", f"user_id,name\nu1,x\n{row}\n")
    many = write(tmp_path / "many.csv", "user_id,name\n" + "".join(f"u{i},x\n" for i in range(MANY)) + f"{row}\n")

    fields = {"q": "1 field", "q,w,r": "3 fields"}[row]
    for path, line in ((few, 3), (many, MANY + 2)):
        error = refusal(path, "SELECT user_id FROM shop")

        assert str(error) == (
            f"The file {path}, line {line}: the row has {fields} separated by ',', but the first line has 2."
        )
        assert error.hint == "correct the file; nothing was changed"


def test_ndjson_keeps_what_is_nested(tmp_path: Path) -> None:
    """Objects and lists are the text of their JSON, whatever types are mixed in them."""
    path = write_lines(
        tmp_path / "events.ndjson",
        {
            "userId": "007",
            "event": "A",
            "instant": "2024-02-29T10:00:00.123Z",
            "n": 1,
            "p": {"a": 1, "b": {"c": [1, "x"]}},
        },
        {"userId": "u2", "event": "B", "instant": "2024-02-29T12:00:00+02:00", "n": 2.5, "p": {"a": "s", "é": None}},
        {
            "userId": "u3",
            "event": None,
            "instant": None,
            "p": [],
            "ok": True,
            "id": "7B9E1E2A-0C8B-4C54-9F9B-0A2F6D9A1C11",
        },
    )

    assert set(types(path).values()) == {"varchar"}
    assert read(path, """SELECT "userId", instant, n, p, p->>'$.a', ok, id FROM shop ORDER BY 1""") == [
        ("007", "2024-02-29T10:00:00.123Z", "1", '{"a":1,"b":{"c":[1,"x"]}}', "1", None, None),
        ("u2", "2024-02-29T12:00:00+02:00", "2.5", '{"a":"s","é":null}', "s", None, None),
        ("u3", None, None, "[]", None, "true", "7B9E1E2A-0C8B-4C54-9F9B-0A2F6D9A1C11"),
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, "007"], ["007", "1"]),
        ([True, "x"], ["true", "x"]),
        ([{"b": 1}, "x"], ["x", '{"b":1}']),
        ([{"b": 1}, [1]], ["[1]", '{"b":1}']),
        ([None, None], [None, None]),
        ([{f"k{i}": i for i in range(300)}], [json.dumps({f"k{i}": i for i in range(300)}).replace(" ", "")]),
    ],
    ids=["number-text", "boolean-text", "object-text", "object-list", "nulls", "wide"],
)
def test_mixed_values_of_json(tmp_path: Path, values: list[object], expected: list[object]) -> None:
    """A column is text, whatever its values are."""
    path = write_lines(tmp_path / "m.ndjson", *({"a": value} for value in values))

    assert types(path) == {"a": "varchar"}
    assert read(path, "SELECT a FROM shop ORDER BY a::text") == [(value,) for value in expected]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists_are_read(tmp_path: Path, indent: int | None) -> None:
    """A file with one list of objects is as good as one with an object a line."""
    path = write(tmp_path / "m.json", json.dumps([{"user_id": "u1", "t": {"a": 1}}, {"user_id": "u2"}], indent=indent))

    assert sorted(read(path, "SELECT user_id, t->>'a' FROM shop")) == [("u1", "1"), ("u2", None)]


@pytest.mark.parametrize(
    ("kinds", "common"),
    [
        (("decimal(38,0)", "decimal(10,2)"), None),
        (("decimal(10,2)", "bigint", "decimal(38,0)"), None),
        (("bigint", "double"), None),
        (("integer", "float"), None),
        (("decimal(10,2)", "double"), None),
        (("hugeint", "decimal(10,2)"), None),
        (("integer", "double"), "double"),
        (("float", "double"), "double"),
        (("bigint", "decimal(10,2)"), "decimal(21,2)"),
        (("decimal(18,3)", "decimal(10,6)"), "decimal(21,6)"),
        (("bigint", "ubigint"), "hugeint"),
        (("decimal(38,0)", "decimal(10,2)", "varchar"), "varchar"),
        (("date", "timestamp"), "timestamp"),
    ],
)
def test_parquet_files_of_different_types(tmp_path: Path, kinds: tuple[str, ...], common: str | None) -> None:
    """No number of a file is rounded because another file has another type: then the files are refused."""
    with duckdb.connect() as writer:
        for number, kind in enumerate(kinds):
            value = "date '2026-01-01'" if kind in {"date", "timestamp"} else "1"
            writer.sql(f"SELECT {value}::{kind} AS id").write_parquet(str(tmp_path / f"m{number}.parquet"))
    place = tmp_path / "m*.parquet"
    if common is not None:
        assert types(place) == {"id": common}
        return

    refused = refusal(place)
    assert "have the column 'id' with the types" in str(refused)
    assert "which have no common exact type" in str(refused)
    assert refused.hint == "use the same type for the column in every file"


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    """Parquet says itself of what type its columns are."""
    with duckdb.connect() as writer:
        rows = writer.sql(
            "SELECT 'u1' AS user_id, 1.50::decimal(5,2) AS price, timestamptz '2024-02-29 10:00:00+02' AS instant"
        )
        rows.write_parquet(str(tmp_path / "m.parquet"))

    assert types(tmp_path / "m.parquet") == {
        "user_id": "varchar",
        "price": "decimal(5,2)",
        "instant": "timestamp with time zone",
    }
    assert read(tmp_path / "m.parquet", "SELECT user_id, instant FROM shop") == [
        ("u1", datetime(2024, 2, 29, 8, tzinfo=UTC))
    ]


def test_compressed_files_are_read(tmp_path: Path) -> None:
    """`.gz` is unpacked on the way."""
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"user_id\nu1\n"))
    (tmp_path / "m.ndjson.gz").write_bytes(gzip.compress(b'{"user_id": "u1"}\n'))

    assert read(tmp_path / "m.csv.gz") == read(tmp_path / "m.ndjson.gz") == [("u1",)]


def test_files_of_a_glob_are_joined_by_name(tmp_path: Path) -> None:
    """Columns may be in another order, missing or new, and the files be separated in different ways."""
    folder = tmp_path / "2024" / "02"
    folder.mkdir(parents=True)
    write(folder / "m-1.csv", "user_id,n\n1,5\n")
    write(tmp_path / "2024" / "m-2.csv", "extra;user_id\nx;007\n")
    write(tmp_path / "2024" / "m-3.csv", "user_id,n\n")
    write(tmp_path / "2024" / "m.txt", "nothing\n")

    assert sorted(read(tmp_path / "**" / "m-*.csv", "SELECT user_id, n, extra FROM shop")) == [
        ("007", None, "x"),
        ("1", "5", None),
    ]


def test_json_files_of_a_glob_are_joined_by_name(tmp_path: Path) -> None:
    """So with JSON, with more files than fit into memory together, and some of them empty."""
    for i in range(60):
        write_lines(tmp_path / f"e-{i:02}.ndjson", {"user_id": i, "p": {"a": i}})
    write_lines(tmp_path / "e-60.ndjson", {"user_id": "007", "new": 1})
    write(tmp_path / "e-61.ndjson", "")
    write(tmp_path / "e-62.ndjson", "[]")

    assert types(tmp_path / "e-*.ndjson") == {"user_id": "varchar", "p": "varchar", "new": "varchar"}
    assert read(tmp_path / "e-*.ndjson", "SELECT count(*), min(user_id), max(new) FROM shop") == [(61, "0", "1")]


def test_parquet_files_of_a_glob_are_joined_by_name(tmp_path: Path) -> None:
    """So with Parquet."""
    with duckdb.connect() as writer:
        writer.sql("SELECT 'u1' AS user_id, 1 AS n").write_parquet(str(tmp_path / "1.parquet"))
        writer.sql("SELECT 'x' AS extra, 'u2' AS user_id").write_parquet(str(tmp_path / "2.parquet"))

    assert sorted(read(tmp_path / "?.parquet", "SELECT user_id, n, extra FROM shop")) == [
        ("u1", 1, None),
        ("u2", None, "x"),
    ]


@pytest.mark.parametrize("name", ["it's; DROP TABLE x --.csv", 'a"b.csv', "a[1]b?*.csv", "%(now)s :now $1.csv"])
def test_a_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    """Quotes, SQL and the letters of patterns in the name of a file mean nothing."""
    write(tmp_path / name, "user_id\nu1\n")
    write(tmp_path / "a1bxx.csv", "user_id\nother\n")

    assert read(tmp_path / name) == [("u1",)]


def test_every_path_is_a_view(tmp_path: Path) -> None:
    """A query may join the files of a source, its events and its profiles; the name of a view is quoted."""
    write(tmp_path / "m.csv", "user_id\nu1\nu2\n")
    write_lines(tmp_path / "e.ndjson", {"user_id": "u1"})
    paths = {"my shop.": str(tmp_path / "m.csv"), 'x"_events': str(tmp_path / "e.ndjson")}
    source = files().model_copy(update={"files": paths})
    sql = """SELECT user_id FROM "my shop." JOIN "x""_events" USING (user_id)"""

    assert rows_of(source, sql) == [("u1",)]
    assert table_columns(source, "my shop.") == (Column("user_id", "varchar"),)
    assert engine_name(source) == "text files"
    ping(source, timedelta(seconds=30))


def test_statements_are_bound(tmp_path: Path) -> None:
    """A person's `:now` is a UTC timestamp; a statement brings a sequence of values."""
    path = write(tmp_path / "m.csv", "user_id,n\nu1,1\nu2,2\n")

    assert read(path, "SELECT user_id, typeof(:now), :now::date FROM shop WHERE n = '1'") == [
        ("u1", "TIMESTAMP", date(2026, 3, 31))
    ]
    wanted = Statement("SELECT user_id, $1 FROM shop WHERE parse_number(n) = $2 AND $2 < 3", ["it's; $3", 2])
    assert read(path, wanted) == [("u2", "it's; $3")]
    assert probe(files(shop=path), wanted, as_of=AS_OF)[0] == "user_id"


@pytest.mark.slow
def test_nothing_but_the_files_can_be_read(tmp_path: Path) -> None:
    """A query reaches no other file, no network and no setting, and writes nothing."""
    path = write(tmp_path / "m.csv", "user_id\nu1\n")
    other = write(tmp_path / "other.csv", "secret\nx\n")
    queries = [
        f"FROM '{other}'",
        f"FROM '{tmp_path}/../{tmp_path.name}/other.csv'",
        f"FROM read_csv('{tmp_path}/*.csv')",
        f"FROM read_text('{other}')",
        f"FROM glob('{tmp_path}/*')",
        "FROM 'https://example.com/m.csv'",
    ]

    for sql in queries:
        assert "Permission Error" in str(refusal(path, sql))
    for sql in (f"COPY shop TO '{other}'", "SET memory_limit = '9GB'", f"ATTACH '{tmp_path}/x.db'"):
        with pytest.raises(ConfigError):
            read(path, sql)
        assert "refused the query" in str(refusal(path, Statement(sql, None)))
    assert read(path, f"FROM read_csv('{path}', all_varchar = true)") == [("u1",)]
    assert other.read_text() == "secret\nx\n"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gone.csv", "File not found: {place}."),
        ("gone-*.csv", "File not found: {place}."),
        ("folder.csv", "The path {place} is a folder."),
        ("empty.csv", "The file {place} is empty."),
        ("blank.csv", "The file {place} is empty."),
        ("empty.ndjson", "The file {place} has no rows."),
        ("scalars.ndjson", "The file {place}, line 1: not a JSON object."),
        ("cut.ndjson", "The file {place}, line 2: not valid JSON: unexpected end of data."),
        ("latin.csv", "The file {place}, line 2: not valid UTF-8."),
        ("utf-16.csv", "The file {place} is UTF-16."),
        ("utf-16.ndjson", "The file {place} is UTF-16."),
        ("cut.csv.gz", "The file {place} is not a complete gzip file."),
        ("cut.ndjson.gz", "The file {place} is not a complete gzip file."),
        ("damaged.csv.gz", "The file {place} is not a complete gzip file."),
        ("damaged.ndjson.gz", "The file {place} is not a complete gzip file."),
        ("plain.csv.gz", "The file {place} is not a complete gzip file."),
        ("plain.ndjson.gz", "The file {place} is not a complete gzip file."),
        ("csv.parquet", "Cannot read the file source {place}: Invalid Input Error: "),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str, sentence: str) -> None:
    """The sentence names the file and says what is wrong with it; there is a remedy, or DuckDB's word."""
    (tmp_path / "folder.csv").mkdir()
    write(tmp_path / "empty.csv", "")
    write(tmp_path / "blank.csv", "\n\n")
    write(tmp_path / "empty.ndjson", "")
    write(tmp_path / "scalars.ndjson", "1\n2\n")
    write(tmp_path / "cut.ndjson", '{"user_id": 1}\n{"user_id": 2, "na')
    write(tmp_path / "latin.csv", "user_id,name\nu1,Zoë\n", "latin-1")
    if name == "cut.csv.gz":  # it takes long
        rows = "".join(f"u{i * 7919 % 1_000_003}\n" for i in range(200_000)).encode()
        (tmp_path / name).write_bytes(gzip.compress(b"user_id\n" + rows)[:50_000])
    objects = b'{"user_id": "u1"}\n' * 1000
    (tmp_path / "cut.ndjson.gz").write_bytes(gzip.compress(objects)[:-4])
    for damaged, content in (("damaged.csv.gz", b"user_id\nu1\n"), ("damaged.ndjson.gz", objects)):
        packed = gzip.compress(content)
        (tmp_path / damaged).write_bytes(packed[:-8] + bytes(4) + packed[-4:])  # another checksum
    write(tmp_path / "plain.csv.gz", "user_id\nu1\n")
    write(tmp_path / "plain.ndjson.gz", '{"user_id": "u1"}\n')
    write(tmp_path / "utf-16.csv", "user_id\nu1\n", "utf-16")
    write(tmp_path / "utf-16.ndjson", '{"user_id": "u1"}\n', "utf-16")
    write(tmp_path / "csv.parquet", "user_id,name\nu1,x\n")

    assert sentence.format(place=tmp_path / name) in str(refusal(tmp_path / name))


def test_a_file_elsewhere_is_refused() -> None:
    """Only files of this machine are read."""
    error = refusal("s3://bucket/members.csv")

    assert "s3://bucket/members.csv is not local" in str(error)
    assert "duckdb://" in str(error.hint)


def test_a_header_alone_is_an_empty_table(tmp_path: Path) -> None:
    """A file with a header and no rows has columns and no rows."""
    path = write(tmp_path / "m.csv", "user_id,name\n")

    assert types(path) == {"user_id": "varchar", "name": "varchar"}
    assert read(path) == []


@pytest.mark.parametrize("change", ["appended", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path, change: str) -> None:
    """A file that is written to, replaced or removed before its rows are read is an error, never a short result."""
    for i in range(3):
        write(tmp_path / f"m-{i}.csv", "user_id\n" + "".join(f"u{j}\n" for j in range(MANY)))
    path = tmp_path / "m-2.csv"
    with open_rows(files(shop=tmp_path / "m-*.csv"), "FROM shop", as_of=AS_OF) as rows:
        pages = rows.pages()
        next(pages)
        if change == "removed":
            path.unlink()
        elif change == "replaced":
            write(tmp_path / "new", "user_id\nu1\n").rename(path)
        else:
            with path.open("a") as file:
                file.write("u1\n")

        with pytest.raises(SourceError, match=r"m-2\.csv"):
            list(pages)


def test_memory_is_limited(tmp_path: Path) -> None:
    """A query that needs more memory than the source may use is refused, and the remedy is the setting."""
    path = write(tmp_path / "m.csv", "user_id\nu1\n")
    error = refusal(path, "SELECT list(repeat('x', 1000) || i) FROM range(1000000) AS n(i)")

    assert "Out of Memory" in str(error)
    assert "memory_limit" in str(error.hint)


@pytest.mark.slow
def test_what_does_not_fit_is_spilled(tmp_path: Path) -> None:
    """A sort larger than the memory uses a temporary folder, which is gone afterwards, and streams its rows."""
    path = write(tmp_path / "m.csv", "user_id\nu1\n")
    sql = "SELECT i FROM range(600000) AS n(i) ORDER BY md5(i::text) || repeat('x', 300)"
    source = files(memory_limit="128MB", shop=path)

    assert len(rows_of(source, sql)) == 600_000


def test_a_query_on_files_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    """The time limit holds for files, too."""
    path = write(tmp_path / "m.csv", "user_id\nu1\n")
    source = files(limit=timedelta(milliseconds=300), shop=path)
    with pytest.raises(SourceError, match=r"did not finish within 0\.3s"):
        rows_of(source, "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE (a.range * b.range) % 7 = 3")


def test_looking_at_files_is_limited(tmp_path: Path) -> None:
    """The time limit holds already while the columns of many files are looked up."""
    for i in range(100):
        write_lines(tmp_path / f"{i}.ndjson", {"user_id": f"u{i}"})
    source = files(limit=timedelta(milliseconds=1), shop=tmp_path / "*.ndjson")

    with pytest.raises(SourceError, match="did not finish"):
        probe(source, "FROM shop", as_of=AS_OF)
