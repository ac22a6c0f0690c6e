"""Whether events are taken over HTTP, and with what; nothing of it is loaded where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from audience_sync.config import Settings, resolve_write_keys
from audience_sync.errors import ConfigError
from audience_sync.extras import EXTRAS, install_command
from audience_sync.store.workspace import Workspace

if TYPE_CHECKING:
    from audience_sync.tracking_api.server import Server

_LIBRARIES: Final = ("starlette", "uvicorn")


def require_libraries() -> None:
    """Refuse to go on without the libraries that HTTP needs.

    Raises:
        ConfigError: one is not installed.
    """
    for name in _LIBRARIES:
        if find_spec(name) is None:
            raise ConfigError(
                f"ingest.listen needs {name}, which is not installed", hint=install_command(EXTRAS["ingest"])
            )


def open_server(workspace: Workspace, settings: Settings, environ: Mapping[str, str]) -> Server | None:
    """Begin to take events where the settings say, or return None when they do not.

    Raises:
        ConfigError: a write key is missing, or a library is.
        AudienceSyncError: the address cannot be had.
    """
    listen = settings.ingest.listen
    if listen is None:
        return None
    keys = resolve_write_keys(settings.ingest, environ)
    require_libraries()
    from audience_sync.tracking_api.server import Server  # noqa: PLC0415 - an extra, and slow to import

    return Server(workspace, listen, keys)
