"""Messages to systemd: ready, alive, reloading, stopping. Without systemd nothing is sent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from systemd_watchdog.systemd_watchdog import WatchDog


class Notifier:
    """Sends messages to systemd; a context manager that closes its socket."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._watchdog = WatchDog(sock=self._socket)

    def ready(self) -> None:
        """Report that the start, or a reload, is complete."""
        self._watchdog.ready()

    def alive(self) -> None:
        """Report that the main thread works, at every call: the library's `ping` follows a wall clock that may jump."""
        self._watchdog.notify()

    def status(self, line: str) -> None:
        """Send the line that `systemctl status` shows."""
        self._watchdog.status(line)

    def reloading(self) -> None:
        """Report that a reload has begun; `ready` ends it. The time makes it work with `Type=notify-reload`, too."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._monotonic() * 1_000_000)}\n")

    def stopping(self) -> None:
        """Report that the daemon is stopping."""
        self._send("STOPPING=1\n")

    def _send(self, message: str) -> None:
        self._watchdog._send(message)  # noqa: SLF001 - the library has no word for these

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
