"""Compare the result of a definition with the members of an audience, as sets of lines.

`DuckDbDiff` answers what `diff_engine.DiffEngine` asks for with DuckDB in this process, whatever the source is. Its
memory is bounded: the rest goes to a temporary folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import duckdb
import orjson

from audience_sync.core.keys import MAX_KEY_LENGTH, KeyRules, canonical
from audience_sync.core.model import Change, ChangeKind, Counts
from audience_sync.core.rows import Wrapping, distinct
from audience_sync.store.memberships import Digest
from audience_sync.sync import duckdb_process
from audience_sync.tuning import DEFAULT_TUNING, Tuning

LONGEST_LINE: Final = 1024 * 1024  # bytes; four of them are the buffer of a file that is loaded
_RULES: Final = "3"
"""Change this when the same rows may become other members (a rule for keys or values), or when hashes are others."""

_FIRST_LINE: Final = b"-\n"  # skipped: from the beginning of a file DuckDB takes a byte order mark away
_HASHES: Final = 2**64  # from 0
_DISK_ERRORS: Final = (OSError, duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException)
_TOTAL: Final = re.compile(r"\d+ \d+", re.ASCII)
_SIDES: Final = (("come", "now", "old"), ("gone", "old", "now"))
_HASH: Final = "hash(k, i, v)"
_SUMS: Final = "count(*), coalesce(sum(h), 0), coalesce(sum(hash(v, k, i, 7)), 0)"  # 128 bits of each row


class DuckDbDiff:
    """A `DiffEngine` of DuckDB.

    A single identifier stands bare in its line, without its JSON (`wrapping`), unless it is one that JSON would change.
    """

    def __init__(self, wrapping: Wrapping | None = None, *, tuning: Tuning = DEFAULT_TUNING) -> None:
        self.wrapping = wrapping
        self._tuning = tuning
        self._connection = duckdb_process.DiffConnection(tuning)
        self._pieces = _Pieces(self._connection.folder, self._load, lines=tuning.diff_lines_per_load)
        self._table, self._are_whole = "now", False  # where pieces go, and whether their identifiers are JSON
        self._sums: tuple[int, int, int] | None = None
        self._are_distinct = False  # one line of each profile

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.push(self)
            self._make("now")
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.close()
        self._connection.close()
        if isinstance(error, duckdb.FatalException | duckdb.InternalException):
            duckdb_process.give_up()

    # --- lines ---

    def add(self, lines: bytes, rows: int) -> None:
        """Add UTF-8 lines with their line ends, from `rows` rows.

        Raises:
            AudienceSyncError: the temporary folder is full.
        """
        with self._trouble():
            self._pieces.add(lines, rows)
        self._sums, self._are_distinct = None, False

    def add_members(self, members: Iterable[bytes]) -> None:
        """Add lines of members, whose identifiers may be JSON where they could be bare, each text in UTF-8."""
        self._are_whole = True
        with self._trouble():
            for text in members:
                self._pieces.add(text, text.count(b"\n"))
            self._pieces.flush()
        self._sums = None

    def take_out(self, rules: KeyRules) -> Iterator[Sequence[tuple[str, str | None]]]:
        """Take out the lines whose key or bare identifier may be none by the rules; yield these two, many at a time.

        Nothing may be added until all are taken out.
        """
        odd = " OR ".join(_is_odd(column, rules) for column in ("k", "i"))
        odd = f"NOT contains(coalesce(i, ''), '\"') AND ({odd})"
        if not self._one(f"SELECT count(*) FROM now WHERE {odd}"):
            return
        self._make("others")
        self._run(f"INSERT INTO others FROM now WHERE NOT coalesce({odd}, false)")
        yield from self._pages(f"SELECT k, i FROM now WHERE {odd} ORDER BY k, i")
        self._rename_others()

    def leave_out_duplicates(self, left_out: Callable[[str], None]) -> None:
        """Keep one line of each profile; the others are passed on."""
        self._are_distinct = True
        self._run("CREATE OR REPLACE TEMP TABLE twice (h UBIGINT)")  # of keys; a few may be of two keys
        (keys,) = self._hashes("hash(k)", "now")
        for part in self._ranges(keys):
            self._run(f"INSERT INTO twice SELECT h FROM {keys} WHERE {part} GROUP BY h HAVING count(*) > 1")
        self._run(f"DROP TABLE {keys}")
        if self._one("SELECT count(*) FROM twice"):
            self._leave_out(left_out)
        self._run("DROP TABLE twice")

    def _leave_out(self, left_out: Callable[[str], None]) -> None:
        """Keep one line of each profile whose key may be there more than once."""
        self._make("several")
        for part in self._parts("h", "twice", rows=self._tuning.diff_rows_per_part):
            again = f"hash(k) IN (FROM twice WHERE {part})"
            self._run(f"INSERT INTO several BY NAME SELECT DISTINCT k FROM now WHERE {again}")
        self._make("others")
        kept = self._connection.folder / "kept"
        with self._trouble(), kept.open("wb") as file:
            file.write(_FIRST_LINE)
            for part in self._parts("k", "several", rows=self._tuning.diff_rows_per_part):
                several = f"(FROM several WHERE {part})"
                lines = self._lines(f"now SEMI JOIN {several} USING (k) WHERE {part}", order="k, i, v")
                for line in distinct((line for page in lines for line in page), left_out=left_out):
                    file.write(f"{line}\n".encode())
                self._run(f"INSERT INTO others FROM now ANTI JOIN {several} USING (k) WHERE {part}")
        self._run("DROP TABLE several")
        self._rename_others()
        with self._trouble():
            self._load(kept, "now", are_whole=True)

    def _rename_others(self) -> None:
        """Have the other lines in the place of all: DuckDB keeps in memory which rows of a table are deleted."""
        self._run("DROP TABLE now")
        self._run("ALTER TABLE others RENAME TO now")
        self._sums = None

    def version(self) -> str:
        """Return the version of digests: everything they depend on except the lines."""
        return canonical([_RULES, duckdb.__version__, *(self.wrapping or ())])

    def digest(self) -> Digest:
        """Return the digest of the lines: equal digests mean equal sets of lines."""
        count, *sums = self._totals()
        return Digest(self.version(), count, " ".join(map(str, sums)))

    def everybody(self) -> Iterator[Sequence[str]]:
        """Yield the lines in pages, by profile key; a single identifier is bare in them."""
        return self._lines("now", identifiers="i")

    def values(self) -> Iterator[Sequence[str]]:
        """Yield the values of computed traits in pages, in a fixed order unrelated to the values."""
        return ([value for (value,) in page] for page in self._pages("SELECT v FROM now ORDER BY h"))

    def lines_of(self, profile_key: str) -> list[str]:
        """Return the lines of one profile."""
        return [line for page in self._lines("now WHERE k = ?", [profile_key], order="i, v") for line in page]

    # --- comparison ---

    def compare(
        self, members: Iterable[bytes], *, known: Digest | None, keep_missing: bool, left_out: Callable[[str], None]
    ) -> Counts:
        """Compare with the lines of the members and return the number of changes; see `DiffEngine`.

        Rows with equal hashes are equal. Should two others ever have the same, the sums of a `known` digest would not
        come out, and rows are compared by their whole text.
        """
        self._totals()
        self._make("old")
        self._table = "old"
        self.add_members(members)
        self._find()
        if not self._are_distinct:
            if self._may_share_keys():
                self.leave_out_duplicates(left_out)
                self._find()
            self._are_distinct = True
        if known is not None and known.version == self.version() and not self._comes_out(known):
            self._find_exactly()
        self._run("DROP TABLE old")
        return self._classify(keep_missing=keep_missing)

    def changes(self) -> Iterator[Sequence[Change]]:
        """Yield the changes that `compare` found, in pages, by profile key."""
        kinds = list(ChangeKind)
        query = f"SELECT kind, k, {_wrapped(self.wrapping)}, v FROM (FROM changed ORDER BY k)"
        return ([Change(kinds[kind], *rest) for kind, *rest in page] for page in self._pages(query))

    def _find(self) -> None:
        """Put into `come` and `gone` what is only here, and only among the members; rows of one hash are equal."""
        hashes = self._hashes("h", "now", "old")
        ranges = self._ranges(*hashes)
        for found, here, there in _SIDES:
            self._run(f"CREATE OR REPLACE TEMP TABLE only_{found} (h UBIGINT)")
            for part in ranges:
                mine, theirs = (f"(FROM hashes_{table} WHERE {part})" for table in (here, there))
                self._run(f"INSERT INTO only_{found} SELECT a.h FROM {mine} a ANTI JOIN {theirs} b ON a.h = b.h")
        for table in hashes:
            self._run(f"DROP TABLE {table}")
        for found, here, _ in _SIDES:
            self._make(found)
            for part in self._parts("h", f"only_{found}", rows=self._tuning.diff_hashes_per_part):
                differing = f"(FROM only_{found} WHERE {part})"
                self._run(f"INSERT INTO {found} SELECT * FROM {here} WHERE {part} AND h IN {differing}")
            self._run(f"DROP TABLE only_{found}")

    def _find_exactly(self) -> None:
        """Do the same by the whole text of the rows."""
        equal = " AND ".join(f"a.{column} IS NOT DISTINCT FROM b.{column}" for column in ("i", "v"))
        for found, here, there in _SIDES:
            self._make(found)
            for part in self._parts("k", "now", "old", rows=self._tuning.diff_rows_per_part):
                only_here = f"(FROM {here} WHERE {part}) a ANTI JOIN (FROM {there} WHERE {part}) b"
                self._run(f"INSERT INTO {found} SELECT a.* FROM {only_here} ON a.k = b.k AND {equal}")

    def _may_share_keys(self) -> bool:
        """Return whether several lines may be of one profile; the members have one each."""
        now, old, come, gone = (self._one(f"SELECT count(*) FROM {table}") for table in ("now", "old", "come", "gone"))
        if now - come != old - gone or max(come, gone) > self._tuning.diff_rows_per_part:
            return True
        twice = "SELECT 1 FROM come GROUP BY k HAVING count(*) > 1"
        stays = "SELECT 1 FROM old SEMI JOIN come USING (k) ANTI JOIN gone USING (k)"
        return self._one(f"SELECT count(*) FROM ({twice} UNION ALL {stays})") > 0

    def _comes_out(self, known: Digest) -> bool:
        """Return whether the members' digest with the changes found is that of the lines."""
        if not _TOTAL.fullmatch(known.total):  # changed by another program
            return False
        before = [known.members, *map(int, known.total.split())]
        come, gone = (self._rows(f"SELECT {_SUMS} FROM {table}")[0] for table in ("come", "gone"))
        found = [was + more - less for was, more, less in zip(before, come, gone, strict=True)]
        return found == [*self._totals()]

    def _classify(self, *, keep_missing: bool) -> Counts:
        """Make the changes of what comes and goes, in the table `changed`."""
        kinds = list(ChangeKind)
        entered, exited, updated = map(kinds.index, (ChangeKind.ENTERED, ChangeKind.EXITED, ChangeKind.UPDATED))
        self._run("CREATE OR REPLACE TEMP TABLE changed (kind UTINYINT, k VARCHAR, i VARCHAR, v VARCHAR)")
        lines, *_ = totals = self._totals()
        for part in self._parts("k", "come", "gone", rows=self._tuning.diff_rows_per_part):
            come, gone = f"(FROM come WHERE {part})", f"(FROM gone WHERE {part})"
            self._run(
                f"INSERT INTO changed SELECT CASE WHEN b.k IS NULL THEN {entered} ELSE {updated} END, a.k, a.i, a.v"
                f" FROM {come} a LEFT JOIN {gone} b ON a.k = b.k"
            )
            left = f"{gone} a ANTI JOIN {come} b ON a.k = b.k"
            if keep_missing:
                stay = self._rows(f"SELECT {_SUMS} FROM (SELECT a.* FROM {left})")[0]
                totals = (totals[0] + stay[0], totals[1] + stay[1], totals[2] + stay[2])
            else:
                self._run(f"INSERT INTO changed SELECT {exited}, a.k, a.i, a.v FROM {left}")
        self._sums = totals
        counted = dict(self._rows("SELECT kind, count(*) FROM changed GROUP BY kind"))
        counts = Counts(entered=counted.get(entered, 0), exited=counted.get(exited, 0), updated=counted.get(updated, 0))
        return replace(counts, unchanged=lines - counts.entered - counts.updated)

    # --- DuckDB ---

    def _make(self, table: str) -> None:
        """Make an empty table of lines, of each its key, identifiers, value and hash."""
        self._run(f"CREATE OR REPLACE TEMP TABLE {table} (k VARCHAR, i VARCHAR, v VARCHAR, h UBIGINT)")

    def _load(self, file: Path, table: str | None = None, *, are_whole: bool = False) -> None:
        """Append the lines of a file to a table; in the thread of the pieces, too, while nobody else executes."""
        bare = _bare(self.wrapping) if are_whole or self._are_whole else "i"
        lines = (
            f"SELECT k, {bare} AS i, v FROM read_csv({_quoted(str(file))}, delim = '\t', quote = '', escape = '',"
            " nullstr = '', null_padding = true, header = false, skip = 1, auto_detect = false, parallel = false,"
            f" max_line_size = {LONGEST_LINE}, buffer_size = {4 * LONGEST_LINE},"
            " columns = {'k': 'VARCHAR', 'i': 'VARCHAR', 'v': 'VARCHAR'})"
        )
        self._connection.execute(f"INSERT INTO {table or self._table} SELECT k, i, v, {_HASH} FROM ({lines})")

    def _lines(
        self, source: str, parameters: Sequence[object] = (), *, order: str = "k", identifiers: str | None = None
    ) -> Iterator[list[str]]:
        line = f"concat_ws(chr(9), k, {identifiers or _wrapped(self.wrapping)})"
        value = f"CASE WHEN v IS NULL THEN {line} ELSE k || chr(9) || coalesce(i, '') || chr(9) || v END"
        query = f"SELECT {value} FROM (SELECT k, i, v FROM {source} ORDER BY {order})"
        return ([text for (text,) in page] for page in self._pages(query, parameters))

    def _pages(self, query: str, parameters: Sequence[object] = ()) -> Iterator[list[Any]]:
        """Yield the rows of a query in pages; no other statement runs in the meantime."""
        cursor = self._execute(query, parameters)
        while True:
            with self._trouble():
                page = cursor.fetchmany(self._tuning.diff_rows_per_page)
            if not page:
                return
            yield page

    def _totals(self) -> tuple[int, int, int]:
        """Return the number of lines and the sums of their two hashes."""
        if self._sums is None:
            count, first, second = self._rows(f"SELECT {_SUMS} FROM now")[0]
            self._sums = (count, first, second)
        return self._sums

    def _hashes(self, hashed: str, *tables: str) -> list[str]:
        """Return tables of the hashes of rows, in their order: DuckDB reads a range of them without the rest."""
        for table in tables:
            in_order = f"SELECT {hashed} AS h FROM {table} ORDER BY h"
            self._run(f"CREATE OR REPLACE TEMP TABLE hashes_{table} AS {in_order}")
        return [f"hashes_{table}" for table in tables]

    def _ranges(self, *tables: str) -> list[str]:
        """Return conditions that part the hashes of some tables, so that each part fits into memory."""
        count = max(self._one(f"SELECT count(*) FROM {table}") for table in tables)
        parts = -(-count // self._tuning.diff_hashes_per_part) or 1
        ends = [_HASHES * part // parts for part in range(parts + 1)]
        return [f"h BETWEEN {first} AND {end - 1}" for first, end in pairwise(ends)]

    def _parts(self, column: str, *tables: str, rows: int) -> Iterator[str]:
        """Yield conditions that part the rows of some tables by a column, so that each part fits into memory.

        Each part is a look at all rows, which lie on the disk where they are many.
        """
        texts = " + ".join(f"coalesce(strlen({name}), 0)" for name in ("k", "i", "v"))
        size = "0" if column == "h" else f"coalesce(sum({texts}), 0)"
        parts = 1
        for table in tables:
            count, characters = self._rows(f"SELECT count(*), {size} FROM {table}")[0]
            parts = max(parts, -(-count // rows), -(-int(characters) // self._tuning.diff_bytes_per_part))
        value = column if column == "h" else f"hash({column})"
        yield from (f"{value} % {parts} = {part}" for part in range(parts)) if parts > 1 else ("true",)

    def _one(self, query: str) -> int:
        return int(self._rows(query)[0][0])

    def _rows(self, query: str) -> list[Any]:
        return self._execute(query).fetchall()

    def _run(self, statement: str) -> None:
        self._execute(statement)

    def _execute(self, statement: str, parameters: Sequence[object] = ()) -> duckdb.DuckDBPyConnection:
        """Execute a statement once everything is loaded; the next one ends its result."""
        with self._trouble():
            self._pieces.flush()
            return self._connection.execute(statement, parameters)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Raise a one-sentence error for a full disk or exhausted memory."""
        try:
            yield
        except _DISK_ERRORS as error:
            if isinstance(error, duckdb.TransactionException):  # it could not write its commit and may be broken
                duckdb_process.give_up()
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
            is_memory = isinstance(error, duckdb.OutOfMemoryException) and not duckdb_process.is_disk_limit(error)
            if is_memory:
                raise duckdb_process.no_memory(reason, most_mb=self._tuning.diff_max_memory_mb) from None
            raise duckdb_process.no_space(reason) from None


class _Pieces:
    """Lines on their way to DuckDB, which loads a file of them in a thread while the next ones are read."""

    def __init__(self, folder: Path, load: Callable[[Path], None], *, lines: int) -> None:
        self._most = lines  # in a file
        self._folder = folder
        self._load = load
        self._thread = ThreadPoolExecutor(1, "diff")
        self._loading: Future[None] | None = None
        self._file: IO[bytes] | None = None
        self._rows = self._number = 0

    def add(self, lines: bytes, rows: int) -> None:
        """Add lines; load them when there are enough."""
        if self._file is None:
            self._number += 1
            self._file = (self._folder / f"piece-{self._number}").open("wb")
            self._file.write(_FIRST_LINE)
        self._file.write(lines)
        self._rows += rows
        if self._rows >= self._most:
            self._hand_over(self._file)

    def flush(self) -> None:
        """Load the rest and wait until everything is loaded."""
        if self._file is not None:
            self._hand_over(self._file)
        self._wait()

    def close(self) -> None:
        """Discard the rest."""
        self._thread.shutdown()
        if self._file is not None:
            with suppress(OSError):  # a full disk does not take what is left in memory either
                self._file.close()

    def _hand_over(self, file: IO[bytes]) -> None:
        file.close()
        self._file, self._rows = None, 0
        self._wait()
        self._loading = self._thread.submit(self._load_and_drop, Path(file.name))

    def _wait(self) -> None:
        if self._loading is not None:
            loading, self._loading = self._loading, None
            loading.result()

    def _load_and_drop(self, file: Path) -> None:
        self._load(file)
        file.unlink()


def wrapping_of(version: str) -> Wrapping | None:
    """Return the wrapping of the lines that a digest of a version was made of."""
    try:
        _, _, *around = orjson.loads(version)
        return Wrapping(*around) if around else None
    except (TypeError, ValueError):  # changed by another program: a digest of it agrees with nothing
        return None


def _is_odd(column: str, rules: KeyRules) -> str:
    """Return the condition of texts that may be no keys: too long, or placeholders."""
    found = f"length({column}) > {MAX_KEY_LENGTH}"
    if rules.folded:
        lengths = ", ".join(map(str, sorted({len(text.encode()) for text in rules.folded})))
        texts = ", ".join(map(_quoted, sorted(rules.folded)))
        found += f" OR strlen({column}) IN ({lengths}) AND lower({column}) IN ({texts})"
    return f"({found})"


def _wrapped(around: Wrapping | None) -> str:
    """Return the identifiers of a row as JSON."""
    if around is None:
        return "i"
    return f"CASE WHEN contains(i, '\"') THEN i ELSE {_quoted(around.before)} || i || {_quoted(around.after)} END"


def _bare(around: Wrapping | None) -> str:
    """Return the identifiers of a row without the JSON around a single one, if it stands for itself."""
    if around is None:
        return "i"
    before, after = around
    inner = f"substring(i, {len(before) + 1}, length(i) - {len(before) + len(after)})"
    return (
        f"CASE WHEN starts_with(i, {_quoted(before)}) AND ends_with(i, {_quoted(after)})"
        f" AND NOT contains({inner}, '\"') AND NOT contains({inner}, '\\') THEN {inner} ELSE i END"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
