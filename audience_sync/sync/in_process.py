"""One DuckDB for all comparisons of this process, as opening one takes as long as comparing ten thousand rows.

Its memory limit is for all of them together. The rest lies in a temporary folder of the process. The folder is deleted
when the process ends, or by the next process when it was killed.
"""

from __future__ import annotations

import atexit
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from audience_sync.errors import AudienceSyncError
from audience_sync.folders import scratch_folder

MEMORY_MB: Final = 56
MOST_MEMORY_MB: Final = 1024  # DuckDB gets this where long rows need it

_alone = threading.Lock()
_until_exit = ExitStack()
atexit.register(_until_exit.close)


@dataclass
class _Opened:
    """An open database and its folder; other threads may use them as long as the process lives."""

    database: duckdb.DuckDBPyConnection
    folder: Path
    memory_mb: int
    is_sound: bool = True

    @property
    def is_usable(self) -> bool:
        """Return whether its folder is still there and where temporary files go now."""
        return self.is_sound and self.folder.is_dir() and self.folder.parent == Path(tempfile.gettempdir())


_opened: list[_Opened] = []  # the last one is in use


def connect() -> tuple[duckdb.DuckDBPyConnection, Path]:
    """Return a new connection, whose temporary tables nobody else sees, and a new folder; both are the caller's.

    Raises:
        ConfigError: TMPDIR is missing, or nothing can be written to it.
        AudienceSyncError: the disk is full.
    """
    with _alone:
        try:
            if not (_opened and _opened[-1].is_usable):
                _opened.append(_open())
            return _opened[-1].database.cursor(), Path(tempfile.mkdtemp(dir=_opened[-1].folder))
        except OSError as error:
            raise no_space(error.strerror or str(error)) from None


def no_space(reason: str) -> AudienceSyncError:
    """Return the error of a disk that has no space for temporary files, or none for this process."""
    return AudienceSyncError(
        f"cannot keep temporary files in {tempfile.gettempdir()}: {reason}",
        hint="nothing was changed: free space there, or set TMPDIR to a folder with more",
    )


def allow_more() -> bool:
    """Double the memory limit; return whether it is higher now."""
    with _alone:
        opened = _opened[-1]
        if opened.memory_mb >= MOST_MEMORY_MB:
            return False
        opened.memory_mb *= 2
        opened.database.execute(f"SET memory_limit = '{opened.memory_mb}MB'")
        return True


def give_up() -> None:
    """Open another database next time: an error of DuckDB's own has made this one useless."""
    with _alone:
        for opened in _opened:
            opened.is_sound = False


def _open() -> _Opened:
    folder = _until_exit.enter_context(scratch_folder())
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": f"{MEMORY_MB}MB",
        "temp_directory": str(folder / "spill"),
        "checkpoint_threshold": "1TB",  # it would write all temporary tables anew now and then
    }
    database = duckdb.connect(":memory:", config=config)
    return _Opened(_until_exit.enter_context(database), folder, MEMORY_MB)
