"""The paths of the configuration files, found without large imports, for which shell completion must not wait."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Final

from audience_sync.errors import ConfigError

CONFIG_PATHS: Final = (Path("config.toml"), Path("/etc/audience-sync/config.toml"))
"""The paths of the file, in the order in which they are tried, if neither a flag nor the environment names one."""

CONFIG_VARIABLE: Final = "AUDIENCE_SYNC_CONFIG"
MOST_BYTES: Final = 16 << 20  # of an included file


def find_config(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration file: `explicit`, else AUDIENCE_SYNC_CONFIG, else the first default path that exists.

    Raises:
        ConfigError: it does not exist; says which paths were looked at.
    """
    named = explicit or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    paths = (named,) if named else CONFIG_PATHS
    for path in paths:
        if path.exists():
            return path
    looked = " and ".join(str(path.absolute()) for path in paths)
    raise ConfigError(f"configuration file not found; looked for {looked}", hint="create one with `audience-sync init`")


def is_glob(pattern: str) -> bool:
    """Return whether a pattern can match any number of files, also none."""
    return glob.has_magic(pattern)


def fitting_files(main: Path, pattern: str) -> list[Path]:
    """Return the paths that a pattern in the main file matches, by name; a plain path matches itself.

    The main file is not among them.

    Raises:
        ValueError: the folder of a glob does not exist or cannot be listed; the message is a sentence.
    """
    if not is_glob(pattern):
        names = [pattern]
    else:
        _require_listable(main.parent / _plain_part(pattern))
        names = sorted(glob.glob(pattern, root_dir=main.parent))  # noqa: PTH207 - the folder may have a `[` in its name
    return [path for name in names if not _is_same(path := main.parent / name, main)]


def _plain_part(pattern: str) -> Path:
    """Return the folder of a glob, up to the first name that can match several."""
    parts = Path(pattern).parts
    return Path(*takewhile(lambda part: not is_glob(part), parts[:-1]))


def _require_listable(folder: Path) -> None:
    """Refuse a folder whose files nobody can see: without them, their audiences would be gone."""
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        raise ValueError(f"the folder {folder} does not exist") from None
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read: {error.strerror}") from None


def _is_same(path: Path, main: Path) -> bool:
    try:
        return path.samefile(main)
    except OSError:  # one of them does not exist, or cannot be reached
        return False
