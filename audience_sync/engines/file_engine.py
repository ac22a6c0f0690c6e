"""Files: each path or glob is a view of a DuckDB in memory, which can read those files and nothing else.

The files are looked up once, when the source is opened. When the rows have been read to their end, the files must be
what they were: one that was written to meanwhile is an error, never a result that is half old and half new.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from audience_sync.config import Source
from audience_sync.core.parameters import Statement
from audience_sync.engines.base import Column, Engine, Page
from audience_sync.engines.csv_views import folded
from audience_sync.engines.deadline import Deadline
from audience_sync.engines.duckdb_dialect import DuckdbDialect
from audience_sync.engines.duckdb_engine import DuckdbSession
from audience_sync.engines.file_access import Fingerprint, fingerprint
from audience_sync.engines.file_errors import remedy_of, sentence_of
from audience_sync.engines.file_views import make_view
from audience_sync.engines.source_errors import explained, overdue, place_of
from audience_sync.engines.text_conversions import conversions
from audience_sync.errors import SourceError
from audience_sync.folders import require_usable_temporary_folder

_THREADS = 2  # each holds buffers of its own; more of them do not make a disk faster


def connect(source: Source, limit: timedelta) -> FileSession:
    """Make the views of a file source; looking at the files takes at most `limit`.

    Raises:
        SourceError: no file fits a path, or a file cannot be read.
    """
    require_usable_temporary_folder(os.environ)
    place = place_of(source)
    files = {view: _find(path) for view, path in source.files.items()}
    known = {path: fingerprint(path) for paths in files.values() for path in paths}
    with ExitStack() as undo:
        folder = undo.enter_context(TemporaryDirectory(prefix="audience-sync-", ignore_cleanup_errors=True))
        connection = undo.enter_context(_open(folder, source))
        columns: set[str] = set()
        deadline = undo.enter_context(Deadline(limit, (connection.interrupt,)))

        def go_on() -> None:
            if deadline.is_over:
                raise overdue(place, limit)

        try:
            with deadline.running():
                for view, paths in files.items():
                    columns |= make_view(connection, view, paths, source, folder=Path(folder), go_on=go_on)
        except duckdb.Error as error:
            if not deadline.is_over:
                hint = remedy_of(error, source, ())
                told = sentence_of(error, source, list(known))
                raise told or explained(f"Cannot read {place}", error, source, hint=hint) from None
        except OSError as error:
            raise _unreadable(error) from None
        go_on()
        _require_types(source, columns)
        _lock(connection, [*known, *map(str, Path(folder).iterdir())])
        return FileSession(connection, source, columns, known, undo.pop_all())


class FileSession(DuckdbSession):
    """A session that sees whether its files change, and that tidies up after itself."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        source: Source,
        columns: set[str],
        known: Mapping[str, Fingerprint],
        undo: ExitStack,
    ) -> None:
        super().__init__(connection)
        self._source = source
        self._columns = columns
        self._known = known
        self._undo = undo

    def execute(self, statement: Statement) -> tuple[str, ...]:
        """Start a query."""
        with self._telling():
            return super().execute(statement)

    def fetch(self) -> Page:
        """Return the next rows; at their end the files must be what they were."""
        with self._telling():
            page = super().fetch()
        if not page:
            self._require_unchanged()
        return page

    def describe(self, statement: Statement) -> tuple[Column, ...]:
        """Name the columns and their types; nothing is run."""
        with self._telling():
            return super().describe(statement)

    def remedy(self, error: Exception) -> str | None:
        """Return what to do about a query on files."""
        return remedy_of(error, self._source, self._columns)

    def close(self) -> None:
        """Close the connection and remove its temporary files."""
        self._undo.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Raise what is known of a file instead of DuckDB's error."""
        try:
            yield
        except duckdb.Error as error:
            self._require_unchanged()
            told = sentence_of(error, self._source, list(self._known))
            if told is not None:
                raise told from None
            raise

    def _require_unchanged(self) -> None:
        for path, before in self._known.items():
            if fingerprint(path) != before:
                raise SourceError(
                    f"The file {path} changed while it was being read.",
                    hint="have files written under a temporary name and renamed when they are complete",
                )


def _require_types(source: Source, columns: set[str]) -> None:
    """Refuse a type of a column that no file has."""
    there = set(map(folded, columns))
    for name in source.types:
        if folded(name) not in there:
            raise SourceError(
                f"`types` names the column {name!r}, but no file in [sources.{source.name}] has it.",
                hint=f"the files have the columns {', '.join(sorted(columns))}",
            )


def _open(folder: str, source: Source) -> duckdb.DuckDBPyConnection:
    """Open an empty DuckDB within its memory; what does not fit goes into a temporary folder."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": source.memory_limit,
        "threads": min(_THREADS, os.cpu_count() or 1),
        "temp_directory": folder,
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    connection = duckdb.connect(":memory:", config=settings)
    connection.execute("SET TimeZone = 'UTC'").fetchall()
    for statement in conversions(source.date_order):
        connection.execute(statement).fetchall()
    return connection


def _lock(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> None:
    """Leave nothing to be read but the files, and no setting to be changed."""
    allowed = sorted({*paths, *map(glob.escape, paths)})  # DuckDB asks for a name as it was given and as it is
    connection.execute("SET allowed_paths = $1", [allowed]).fetchall()
    connection.execute("SET enable_external_access = false").fetchall()
    connection.execute("SET lock_configuration = true").fetchall()


def _find(path: str) -> list[str]:
    """Return the files that a path or glob names, in order."""
    if "://" in path:
        raise SourceError(
            f"The path {path} is not local; only local files can be read.",
            hint='copy the files to this machine, or set url = "duckdb://" and read them in the SQL of each audience',
        )
    if Path(path).is_dir():
        raise SourceError(
            f"The path {path} is a folder.", hint=f"use a pattern for the files in it, such as {Path(path) / '*'}"
        )
    fitting = glob.glob(path, recursive=True)  # noqa: PTH207 - the path is absolute
    found = [path] if Path(path).is_file() else sorted(filter(os.path.isfile, fitting))
    if not found:
        raise SourceError(f"File not found: {path}.", hint="check the path of the source")
    return found


def _unreadable(error: OSError) -> SourceError:
    """Say which file cannot be opened, or unpacked."""
    reason = error.strerror or str(error)
    where = f"The file {error.filename}" if error.filename else "A file of the source"
    return SourceError(f"{where} cannot be read: {reason}.", hint="check that the file exists and is complete")


_DIALECT = DuckdbDialect()
ENGINE = Engine(connect=connect, connect_errors=(duckdb.Error,), lexis=_DIALECT.lexis, dialect=_DIALECT)
