"""Messages to systemd, word for word, on a socket that stands for it."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audience_sync.daemon.service import Notifier


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of systemd."""
    folder = Path(tempfile.mkdtemp(prefix="notify-"))  # the path of a socket must be short
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as opened:
        opened.bind(str(folder / "s"))
        opened.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "s"))
        yield opened
    shutil.rmtree(folder)


def test_messages(listening: socket.socket) -> None:
    """A reload carries the monotonic time in microseconds, as systemd asks."""
    with Notifier(lambda: 12.3456789) as notifier:
        for send in (notifier.ready, notifier.alive, notifier.reloading, notifier.stopping):
            send()
        notifier.status("2 audiences")
    heard = [listening.recv(4096).decode() for _ in range(5)]

    assert heard == [
        "READY=1\n",
        "WATCHDOG=1\n",
        "RELOADING=1\nMONOTONIC_USEC=12345678\n",
        "STOPPING=1\n",
        "STATUS=2 audiences\n",
    ]


def test_the_watchdog_does_not_follow_the_wall_clock(listening: socket.socket) -> None:
    """A clock that was an hour ahead does not keep the daemon from reporting that it works; systemd would kill it."""
    with Notifier(lambda: 0.0) as notifier:
        notifier._watchdog._lastcall = datetime.now(UTC) + timedelta(hours=1)
        notifier.alive()

    assert listening.recv(4096) == b"WATCHDOG=1\n"


def test_nothing_is_sent_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal or a container every message is silently dropped."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with Notifier(lambda: 0.0) as notifier:
        notifier.ready()
        notifier.reloading()
