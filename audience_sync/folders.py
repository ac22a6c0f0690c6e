"""Require the folders for state: a missing folder is an error and is never replaced by another."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from audience_sync.errors import ConfigError

TEMPORARY_FOLDER = "TMPDIR"
_SCRATCH = "audience-sync-diff-"


def require_folder(folder: Path, purpose: str) -> None:
    """Refuse to go on without a folder; a misspelled path must not become a new, empty place.

    Raises:
        ConfigError: there is none.
    """
    if folder.is_dir():
        return
    if folder.exists():
        raise ConfigError(f"the path {folder} {purpose} is not a folder", hint="correct the path")
    raise ConfigError(
        f"the folder {folder} {purpose} does not exist",
        hint=f"create it with `mkdir -p {shlex.quote(str(folder))}`, or correct the path",
    )


def require_temporary_folder(environ: Mapping[str, str]) -> None:
    """Refuse a TMPDIR that is missing: Python would use another folder, perhaps a smaller or a shared one.

    Raises:
        ConfigError: it is.
    """
    if named := environ.get(TEMPORARY_FOLDER):
        require_folder(Path(named), f"from {TEMPORARY_FOLDER}")


def require_usable_temporary_folder(environ: Mapping[str, str]) -> None:
    """Refuse a TMPDIR to which nothing can be written, for the same reason: only what needs it looks so closely.

    Raises:
        ConfigError: nothing can be written to it, or it is missing.
    """
    require_temporary_folder(environ)
    if named := environ.get(TEMPORARY_FOLDER):
        try:
            with tempfile.TemporaryFile(dir=named) as file:
                file.write(b"tried")
        except OSError as error:
            remedy = "free up space there, or " if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
            raise ConfigError(
                f"the folder {named} from {TEMPORARY_FOLDER} is not writable: {error.strerror}",
                hint=f"{remedy}set {TEMPORARY_FOLDER} to a folder that is writable by this user",
            ) from None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder for temporary files, of nobody else, and delete it at the end; it may hold personal data.

    What processes left behind that were killed is deleted first: while one lives, it has a lock on its folder.

    Raises:
        ConfigError: TMPDIR is missing, or nothing can be written to it.
    """
    require_usable_temporary_folder(os.environ)
    _delete_abandoned(Path(tempfile.gettempdir()))
    folder, descriptor = _locked_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder() -> tuple[Path, int]:
    """Return a new folder with a lock on it, and the descriptor that holds the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        with suppress(FileNotFoundError):  # another process took it for abandoned before it was locked
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _delete_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_SCRATCH}*"):
        with suppress(OSError):  # it is another user's, in use, or gone
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder.stat().st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
