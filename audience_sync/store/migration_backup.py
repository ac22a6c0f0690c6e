"""The backup of a SQLite file that is made before its migration, and the disk space that both need.

The backup is made while the migration has the file locked, so it has exactly what is migrated. It appears under its
name once it is whole and on the disk. Nothing ever deletes it, unless the migration failed and changed nothing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Final, NamedTuple

from audience_sync.core.text import size_text
from audience_sync.errors import AudienceSyncError

REWRITING: Final = frozenset({"0009", "0010"})
"""Revisions that write the largest tables anew on SQLite: the file doubles, and its log takes as much again."""

PAGES_PER_STEP: Final = 4_096

_PARTIAL: Final = ".partial"


class NeededSpace(NamedTuple):
    """Bytes of disk space that a migration needs in the folder of a file: for the backup, and for its own writes."""

    backup: int
    migration: int

    @classmethod
    def of(cls, file: Path, pending: Sequence[str], *, with_backup: bool) -> NeededSpace:
        """Return the space that the `pending` revisions need, at most."""
        size = sum(part.stat().st_size for part in (file, file.with_name(f"{file.name}-wal")) if part.exists())
        growth = 2 * size if REWRITING.intersection(pending) else size // 10
        return cls(size if with_backup else 0, growth)

    def require(self, file: Path) -> None:
        """Refuse a migration for which the disk is too small.

        Raises:
            AudienceSyncError: it is.
        """
        free, needed = shutil.disk_usage(file.parent).free, self.backup + self.migration
        if free >= needed:
            return
        backup = f"{size_text(self.backup)} for the backup and " if self.backup else ""
        remedy = ", or make a backup on another disk and run `audience-sync migrate --no-backup`" if self.backup else ""
        raise AudienceSyncError(
            f"nothing was migrated: {file.parent} has {size_text(free)} of free space, but needs {size_text(needed)}:"
            f" {backup}{size_text(self.migration)} for the migration",
            hint=f"free {size_text(needed - free)} there{remedy}",
        )


def backup_path(file: Path, revision: str, at: datetime) -> Path:
    """Return a new name for a backup, with the revision of the schema that it has and the time in UTC.

    A migration that is killed and repeated within a second leaves two backups: the second one gets a number.
    """
    stem = f"{file.name}.{revision}-{at:%Y%m%dT%H%M%SZ}"
    names = chain([f"{stem}.backup"], (f"{stem}-{number}.backup" for number in count(2)))
    return next(path for path in map(file.with_name, names) if not path.exists())


def back_up(file: Path, path: Path) -> None:
    """Write a backup of a SQLite file to a new file, with the owner and permissions of the original.

    Raises:
        AudienceSyncError: there is a file of that name, or it cannot be written; nothing of it is left.
    """
    if path.exists():
        raise AudienceSyncError(
            f"nothing was migrated: the backup {path} already exists", hint="rename it, then try again"
        )
    for left in file.parent.glob(f"{file.name}.*.backup{_PARTIAL}"):  # of a process that was killed
        with suppress(OSError):
            left.unlink()
    partial = path.with_name(path.name + _PARTIAL)
    try:
        _write(file, partial)
        partial.rename(path)
        _flush(path.parent)
    except (OSError, sqlite3.Error) as error:
        for part in (partial, partial.with_name(f"{partial.name}-journal")):
            with suppress(OSError):
                part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise AudienceSyncError(
            f"nothing was migrated: cannot write the backup {path}: {reason}",
            hint=f"make sure that {path.parent} is writable and has free space, or make a backup in another folder and"
            " run `audience-sync migrate --no-backup`",
        ) from None


def _write(file: Path, partial: Path) -> None:
    owner = file.stat()
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if os.geteuid() == 0:
        os.chown(partial, owner.st_uid, owner.st_gid)
    partial.chmod(owner.st_mode & 0o777)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(partial)) as target:
        source.backup(target, pages=PAGES_PER_STEP)
    _flush(partial)


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
