"""One DuckDB for all comparisons of this process, because opening one takes as long as comparing ten thousand rows.

They share its memory limit. The rest is in a temporary folder of the process, which is deleted when the process ends,
or by the next process if it was killed.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb

from audience_sync.errors import AudienceSyncError
from audience_sync.folders import scratch_folder
from audience_sync.tuning import DEFAULT_TUNING, Tuning

_lock = threading.Lock()
_until_exit = ExitStack()
atexit.register(_until_exit.close)


@dataclass
class _Opened:
    """An open database and its folder; other threads may use them as long as the process lives."""

    database: duckdb.DuckDBPyConnection
    folder: Path
    least_mb: int  # the memory limit while nobody needs more
    memory_mb: int  # the memory limit now
    connections: int = 0
    is_sound: bool = True

    def is_usable(self, tuning: Tuning) -> bool:
        """Return whether it has this tuning's memory, and its folder is there and where temporary files go now."""
        is_here = self.folder.is_dir() and self.folder.parent == Path(tempfile.gettempdir())
        return self.is_sound and is_here and self.least_mb == tuning.diff_memory_mb


_opened: list[_Opened] = []  # the last one is in use


class DiffConnection:
    """A connection whose temporary tables no other connection sees, and a temporary folder of its own.

    Raises:
        ConfigError: TMPDIR is missing, or nothing can be written to it.
        AudienceSyncError: the disk is full.
    """

    def __init__(self, tuning: Tuning = DEFAULT_TUNING) -> None:
        self._most_mb = tuning.diff_max_memory_mb
        with _lock:
            try:
                if not (_opened and _opened[-1].is_usable(tuning)):
                    _opened.append(_open(tuning.diff_memory_mb))
                self._opened = _opened[-1]
                self.folder = Path(tempfile.mkdtemp(dir=self._opened.folder))
            except OSError as error:
                raise no_space(error.strerror or str(error)) from None
            self._cursor = self._opened.database.cursor()
            self._opened.connections += 1

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> duckdb.DuckDBPyConnection:
        """Execute a statement; raise the memory limit if the statement needs more, as long values may."""
        while True:
            try:
                return self._cursor.execute(statement, list(parameters))
            except duckdb.OutOfMemoryException as error:
                if is_disk_limit(error) or not self._allow_more():
                    raise

    def close(self) -> None:
        """Delete the folder and the tables. The last connection to close restores the memory limit."""
        self._cursor.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        with _lock:
            self._opened.connections -= 1
            least = self._opened.least_mb
            if not self._opened.connections and self._opened.memory_mb != least and self._opened.is_sound:
                self._set_limit(least)

    def _allow_more(self) -> bool:
        """Double the memory limit; return whether it is higher now."""
        with _lock:
            if self._opened.memory_mb >= self._most_mb:
                return False
            self._set_limit(self._opened.memory_mb * 2)
            return True

    def _set_limit(self, memory_mb: int) -> None:
        self._opened.database.execute(f"SET memory_limit = '{memory_mb}MB'")
        self._opened.memory_mb = memory_mb


def no_space(reason: str) -> AudienceSyncError:
    """Return the error of a disk that has no space for temporary files, or none for this process."""
    return AudienceSyncError(
        f"cannot write temporary files to {tempfile.gettempdir()}: {reason}",
        hint="free up space there or set TMPDIR to a folder with more space, then try again",
    )


def no_memory(reason: str, *, most_mb: int) -> AudienceSyncError:
    """Return the error of a comparison that needs more memory than it may have."""
    return AudienceSyncError(
        f"the comparison needs more than {most_mb:,} MB of memory: {reason}",
        hint="check the result of the definition for very long values",
    )


def is_disk_limit(error: duckdb.OutOfMemoryException) -> bool:
    """Return whether DuckDB found no disk space to spill to; it takes at most nine tenths of what is free."""
    return "max_temp_directory_size" in str(error)


def give_up() -> None:
    """Open another database next time: an error of DuckDB's own has made this one useless."""
    with _lock:
        for opened in _opened:
            opened.is_sound = False


def _open(memory_mb: int) -> _Opened:
    folder = _until_exit.enter_context(scratch_folder())
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": f"{memory_mb}MB",
        "temp_directory": str(folder / "spill"),
        "checkpoint_threshold": "1TB",  # it would write all temporary tables anew now and then
    }
    database = duckdb.connect(":memory:", config=config)
    return _Opened(_until_exit.enter_context(database), folder, memory_mb, memory_mb)
