"""Files as a source: each path or glob is a view of a DuckDB in memory, which can read those files and nothing else.

The files are looked up once, when the source is opened. When the rows have been read to their end, the files must be
what they were: one that was written to meanwhile is an error, never a result that is half old and half new.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import duckdb

from audience_sync.config import Source
from audience_sync.errors import SourceError
from audience_sync.folders import require_temporary_folder
from audience_sync.source.duckdb import MORE_MEMORY, DuckdbSession
from audience_sync.source.explain import explained, overdue, place_of
from audience_sync.source.formats import read_files
from audience_sync.source.session import Deadline, Page

CONNECT_ERRORS = (duckdb.Error,)
_THREADS = 2  # each holds buffers of its own; more of them do not make a disk faster
_OTHER_TYPES = "repair the file, or read it in `sql` with read_csv or read_json and types of your own"
_Stamp: TypeAlias = tuple[int, int] | None  # size and time of the last change, in nanoseconds; None: it is gone


def connect(source: Source, limit: timedelta) -> FileSession:
    """Make the views of a file source; looking at the files takes at most `limit`.

    Raises:
        SourceError: no file fits a path, or a file cannot be read.
    """
    require_temporary_folder(os.environ)
    place = place_of(source)
    files = {view: _find(path) for view, path in source.files.items()}
    stamps = {path: _stamp(path) for paths in files.values() for path in paths}
    with ExitStack() as undo:
        folder = undo.enter_context(TemporaryDirectory(prefix="audience-sync-", ignore_cleanup_errors=True))
        connection = undo.enter_context(_open(folder, source.memory_limit))
        deadline = Deadline(limit, (connection.interrupt,))
        try:
            with deadline.running():
                for view, paths in files.items():
                    read_files(connection, paths).create_view(view)
        except duckdb.Error as error:
            if not deadline.is_over:
                raise explained(f"Cannot read {place}", error, source, hint=_remedy(error)) from None
        if deadline.is_over:
            raise overdue(place, limit)
        _lock(connection, list(stamps))
        return FileSession(connection, stamps, undo.pop_all())


class FileSession(DuckdbSession):
    """A session that sees whether its files change, and that tidies up after itself."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, stamps: Mapping[str, _Stamp], undo: ExitStack) -> None:
        super().__init__(connection)
        self._stamps = stamps
        self._undo = undo

    def fetch(self) -> Page:
        """Return the next rows; at their end the files must be what they were."""
        page = super().fetch()
        if not page:
            for path, stamp in self._stamps.items():
                if _stamp(path) != stamp:
                    raise SourceError(
                        f"The file {path} was changed while it was read.",
                        hint="write a file under another name first, and rename it when it is whole",
                    )
        return page

    def remedy(self, error: Exception) -> str | None:
        """Return what to do about a file that is not what its first rows promised."""
        return _remedy(error) or super().remedy(error)

    def close(self) -> None:
        """Close the connection and remove its temporary files."""
        self._undo.close()


def _remedy(error: Exception) -> str | None:
    """Return what to do about an error with a file, where that is known."""
    remedies: dict[type[Exception], str] = {
        duckdb.OutOfMemoryException: MORE_MEMORY,
        duckdb.ConversionException: _OTHER_TYPES,
        duckdb.InvalidInputException: _OTHER_TYPES,
        duckdb.IOException: "check that the file is there and whole",
    }
    return next((remedy for kind, remedy in remedies.items() if isinstance(error, kind)), None)


def _open(folder: str, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """Open an empty DuckDB within its memory; what does not fit goes into a temporary folder."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        "threads": min(_THREADS, os.cpu_count() or 1),
        "temp_directory": folder,
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    connection = duckdb.connect(":memory:", config=settings)
    connection.execute("SET TimeZone = 'UTC'").fetchall()
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
            f"The path {path} is not on this machine, and only files that are can be read.",
            hint='copy the files here, or set url = "duckdb://" and read them in the SQL of each audience',
        )
    if Path(path).is_dir():
        raise SourceError(f"The path {path} is a folder.", hint=f"name its files, as in {Path(path) / '*'}")
    fitting = glob.glob(path, recursive=True)  # noqa: PTH207 - the path is absolute
    found = [path] if Path(path).is_file() else sorted(filter(os.path.isfile, fitting))
    if not found:
        raise SourceError(f"There is no file {path}.", hint="check the path of the source")
    return found


def _stamp(path: str) -> _Stamp:
    """Return what changes when a file is written to."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
