"""The Tracking API on its sockets: Uvicorn in a thread of its own, with the thread that commits behind it.

Uvicorn's own lines are left out: anybody could fill the log with garbage requests. What it says of our mistakes is
logged without the values in it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import traceback
from collections.abc import Sequence

import structlog
import uvicorn
from pydantic import SecretStr

from audience_sync.config import Address
from audience_sync.errors import AudienceSyncError
from audience_sync.store.workspace import Workspace
from audience_sync.tracking_api.api import Api
from audience_sync.tracking_api.intake import Intake
from audience_sync.tracking_api.limits import DEFAULT, Limits
from audience_sync.tracking_api.protocol import limited

BACKLOG = 512  # connections that the system keeps for us until we take them

log = structlog.get_logger()


class Server:
    """Serves from the moment it is made until `close`.

    Raises:
        AudienceSyncError: the address cannot be had.
    """

    def __init__(
        self, workspace: Workspace, address: Address, keys: Sequence[SecretStr], *, limits: Limits = DEFAULT
    ) -> None:
        sockets = _listen(address)
        self.address = address._replace(port=sockets[0].getsockname()[1])
        self._intake = Intake(workspace, wait=limits.wait)
        secrets = [key.get_secret_value().encode() for key in keys]
        self._api = Api(self._intake.submit, secrets, limits=limits, seams=workspace.seams)
        self._uvicorn = uvicorn.Server(_configuration(self._api, limits))
        self._thread = threading.Thread(target=self._uvicorn.run, args=(sockets,), name="ingest", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether it still serves; it does until it is stopped, unless something has crashed."""
        return self._thread.is_alive() and self._intake.is_alive()

    def stop(self) -> None:
        """Take no more connections; requests under way go on for a while."""
        self._uvicorn.should_exit = True

    def close(self, timeout: float) -> None:
        """End within `timeout` seconds: requests under way are committed and answered, or refused, or left alone."""
        ends_at = time.monotonic() + timeout
        self.stop()
        self._thread.join(timeout)
        self._uvicorn.force_exit = True
        self._intake.close(max(0.0, ends_at - time.monotonic()))
        self._api.close()


def _configuration(api: Api, limits: Limits) -> uvicorn.Config:
    logger = logging.getLogger("uvicorn.error")
    logger.handlers, logger.propagate = [_Failures(logging.ERROR)], False
    logger.setLevel(logging.ERROR)
    return uvicorn.Config(
        api.application(),
        loop="asyncio",
        http=limited(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=round(limits.idle),
        timeout_graceful_shutdown=round(limits.drain),
    )


class _Failures(logging.Handler):
    """Logs exceptions in our own code: their kind and place, not their words, in which there may be values."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, asyncio.CancelledError):
            frames = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            log.error("ingest_failed", error=type(error).__name__, frames=frames)


def _listen(address: Address) -> list[socket.socket]:
    """Return sockets that listen on every address of a host, all on one port."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, place in dict.fromkeys((family, place) for family, _, _, _, place in found):
            port = sockets[0].getsockname()[1] if sockets else address.port
            # Named as TCP: else asyncio does not send at once, and each answer takes 40 ms.
            opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((place[0], port, *place[2:]))
            opened.listen(BACKLOG)
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise AudienceSyncError(
            f"events cannot be taken on {address}: {error.strerror or error}",
            hint="choose another address or port (above 1023) as ingest.listen, or end what has it",
        ) from error
    return sockets
