"""Signals as processes get them: stopped and continued, a reload, an end in the middle, a terminal that closes."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.running import DEADLINE, ON_ONE_DATABASE, Place, Running, customers, open_place, until
from tests.commands import Command

EVERYBODY = customers(range(20))
SOON = 10.0  # seconds in which SIGTERM ends the daemon
RING = "[[audiences]]\nname = 'Ring'\nsql = 'SELECT customer_id AS user_id FROM orders'"
TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is that of this session, as of a shell's
from audience_sync.__main__ import main
sys.argv[0] = "audience-sync"
main()
"""


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A shop of twenty customers whose one audience is due every hour."""
    with open_place(tmp_path, database_url) as opened:
        configure(opened)
        opened.shop.set_orders(EVERYBODY.items())
        yield opened


def configure(place: Place, more: str = "") -> None:
    """Write the configuration, with more in it."""
    place.configure(more=f'[schedule]\nevery = "1h"\njitter = "0s"\n{more}')


def state_of(process: Command) -> str:
    """Return what the kernel says of a process: T for stopped."""
    return Path(f"/proc/{process._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def stop_and_continue(running: Running) -> None:
    """Suspend a process and wake it again, as Ctrl-Z and `fg` do."""
    running.process.send_signal(signal.SIGSTOP)
    until(lambda: state_of(running.process) == "T")
    running.process.send_signal(signal.SIGCONT)
    until(lambda: state_of(running.process) != "T")


def logged(running: Running, *events: str) -> list[tuple[str, str]]:
    """Return event and level of the lines so far that are about these events."""
    return [(line["event"], line["level"]) for line in running.logged if line["event"] in events]


@contextmanager
def systemd(place: Place) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    folder = Path(tempfile.mkdtemp(prefix="notify-"))  # the path of a socket must be short
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
            listening.bind(str(folder / "s"))
            listening.settimeout(DEADLINE)
            place.environment["NOTIFY_SOCKET"] = str(folder / "s")
            yield listening
    finally:
        shutil.rmtree(folder)


def heard_until(listening: socket.socket, message: str) -> list[str]:
    """Return the lines sent to systemd up to a message."""
    heard: list[str] = []
    while message not in heard:
        heard += listening.recv(4096).decode().splitlines()
    return heard


@ON_ONE_DATABASE
def test_the_daemon_goes_on_after_it_was_stopped_and_continued(place: Place) -> None:
    """SIGSTOP and SIGCONT end nothing: signals are still taken, and the end is in order."""
    with place.running("run") as daemon:
        daemon.wait_for('"sync_finished"')
        for _ in range(3):
            stop_and_continue(daemon)
        configure(place, RING)
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: place.members("ring"))
        ended = daemon.end(signal.SIGTERM, seconds=SOON)

    assert ended.code == 0
    assert logged(daemon, "configuration_reloaded", "daemon_stopping", "daemon_stopped") == [
        ("configuration_reloaded", "info"),
        ("daemon_stopping", "info"),
        ("daemon_stopped", "info"),
    ]


@ON_ONE_DATABASE
def test_a_command_goes_on_after_it_was_stopped_and_continued(place: Place) -> None:
    """Ctrl-Z in a sync that waits for its source: after `fg` it finishes."""
    place.shop.execute("BEGIN EXCLUSIVE")
    with place.running("sync") as syncing:
        until(place.held)
        stop_and_continue(syncing)
        place.shop.execute("COMMIT")
        ended = syncing.end()

    assert (ended.code, "interrupted" in ended.err) == (0, False)
    assert set(place.members()) == set(EVERYBODY)


@ON_ONE_DATABASE
def test_a_reload_of_a_bad_file_and_of_a_good_one(place: Place) -> None:
    """A bad file changes nothing, and its problems are in the log; a good one is in force at once."""
    path = place.folder / "config.toml"
    good = path.read_text()
    with systemd(place) as listening, place.running("run") as daemon:
        heard_until(listening, "READY=1")
        until(place.members)
        for bad in ("\n[", f"{RING}\nschedule = {{ every = '2x' }}\nsqll = 1"):
            path.write_text(f"{good}\n{bad}")
            daemon.process.send_signal(signal.SIGHUP)
            heard = heard_until(listening, "READY=1")
        configure(place, f'{RING}\n[ingest]\nlisten = "127.0.0.1:0"\nwrite_keys = ["${{SCHEMATIC_API_KEY}}"]')
        for _ in range(2):
            daemon.process.send_signal(signal.SIGHUP)
        until(lambda: place.members("ring"))
        ended = daemon.end(signal.SIGTERM, seconds=SOON)
    syntax, several = (line for line in daemon.logged if line["event"] == "reload_failed")
    reloaded = next(line for line in daemon.logged if line["event"] == "configuration_reloaded")
    restart = next(line for line in daemon.logged if line["event"] == "restart_required")

    assert ended.code == 0
    assert [line for line in heard if line.startswith(("RELOADING", "READY"))] == ["RELOADING=1", "READY=1"]
    assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in heard)
    assert (syntax["level"], len(syntax["problems"])) == ("error", 1)
    assert several["level"] == "error"
    assert several["problems"] == [
        f"{path} has 2 problems:",
        '  line 25, "Ring": audiences[1].schedule.every: must be a duration such as "30s", "15m", "2h" or "400d"',
        '  line 26, "Ring": audiences[1].sqll: unknown setting (did you mean `sql` or `sql_file`?)',
    ]
    assert reloaded["added"] == ["ring"]
    assert (restart["level"], restart["settings"]) == ("warning", ["ingest.listen", "ingest.write_keys"])


@ON_ONE_DATABASE
def test_hangups_at_the_start_and_at_the_end(place: Place) -> None:
    """SIGHUP before the configuration is read is a reload after the start; while the daemon ends it does nothing."""
    path = place.folder / "config.toml"
    text = path.read_text()
    path.unlink()
    os.mkfifo(path)
    with place.running("run") as daemon:
        feed = open_when_read(path)
        daemon.process.send_signal(signal.SIGHUP)
        path.unlink()
        path.write_text(text)
        os.write(feed, text.encode())
        os.close(feed)
        daemon.wait_for('"configuration_reloaded"')
        place.shop.execute("BEGIN EXCLUSIVE")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGHUP)
        place.shop.execute("COMMIT")
        ended = daemon.end(signal.SIGHUP, seconds=SOON)

    assert ended.code == 0
    assert len(logged(daemon, "configuration_reloaded", "reload_failed")) == 1


@ON_ONE_DATABASE
def test_a_hangup_during_start_up_is_a_reload(place: Place) -> None:
    """SIGHUP does not end the daemon while it is still being imported: it waits, and is a reload."""
    with place.running("run") as daemon:
        until(lambda: signal.SIGHUP in blocked(daemon.process))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for('"configuration_reloaded"')
        assert daemon.end(signal.SIGTERM, seconds=SOON).code == 0


def blocked(process: Command) -> set[int]:
    """Return the numbers of the signals that the first thread of a process blocks."""
    text = Path(f"/proc/{process._process.pid}/status").read_text()
    mask = int(re.search(r"^SigBlk:\t([0-9a-f]+)$", text, re.MULTILINE)[1], 16)  # type: ignore[index]
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}


def open_when_read(path: Path) -> int:
    """Open a named pipe as soon as somebody reads it."""
    opened: list[int] = []

    def is_read() -> bool:
        try:
            opened.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    until(is_read)
    return opened[0]


@ON_ONE_DATABASE
def test_a_hangup_ends_a_command_at_once(place: Place) -> None:
    """For a one-off command SIGHUP means what it means by default."""
    place.shop.execute("BEGIN EXCLUSIVE")
    with place.running("sync") as syncing:
        until(place.held)
        ended = syncing.end(signal.SIGHUP)
    place.shop.execute("COMMIT")

    assert ended.code == -signal.SIGHUP


@pytest.mark.slow
@ON_ONE_DATABASE
def test_a_terminal_that_closes_ends_the_daemon_in_order(place: Place) -> None:
    """`run` in a terminal window is over when the window is: leases are given back, and the exit code is 0."""
    controller, terminal = pty.openpty()
    words = [sys.executable, "-c", TERMINAL, "--config", str(place.folder / "config.toml"), "run"]
    environment = {**os.environ, "SCHEMATIC_API_KEY": place.key}
    try:
        daemon = subprocess.Popen(
            words, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
    finally:
        os.close(terminal)
    try:
        until(lambda: place.traits() and not place.rows("SELECT 1 FROM open_deliveries"))
        os.close(controller)
        assert daemon.wait(DEADLINE) == 0
    finally:
        daemon.kill()
        daemon.wait()

    assert place.held() == []
