"""The folders that state is kept in: one that is missing is refused, and never replaced by another."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from audience_sync.errors import ConfigError

TEMPORARY_FOLDER = "TMPDIR"


def require_folder(folder: Path, purpose: str) -> None:
    """Refuse to go on without a folder; a misspelled path must not become a new, empty place.

    Raises:
        ConfigError: there is none.
    """
    if not folder.is_dir():
        missing = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"the folder {folder} {purpose} {missing}", hint=f"mkdir -p {shlex.quote(str(folder))}, or correct the path"
        )


def require_temporary_folder(environ: Mapping[str, str]) -> None:
    """Refuse a TMPDIR that is missing: Python would use another folder, perhaps a smaller or a shared one.

    Raises:
        ConfigError: it is.
    """
    if named := environ.get(TEMPORARY_FOLDER):
        require_folder(Path(named), f"that {TEMPORARY_FOLDER} names")
