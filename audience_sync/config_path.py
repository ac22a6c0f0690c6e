"""The path of the configuration file, found without reading it: shell completion must not wait for large imports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from audience_sync.errors import ConfigError

CONFIG_PATHS: Final = (Path("config.toml"), Path("/etc/audience-sync/config.toml"))
"""The paths of the file, in the order in which they are tried, if neither a flag nor the environment names one."""

CONFIG_VARIABLE: Final = "AUDIENCE_SYNC_CONFIG"


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
