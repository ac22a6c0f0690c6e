"""`audience-sync sandbox` as people run it: a process of its own, without any configuration, ended by a signal."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import httpx
import pytest

from audience_sync.config import load, resolve_api_key
from audience_sync.sandbox.ledger import Ledger
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from tests.commands import Command, call
from tests.waiting import wait_until

DEADLINE = 30.0  # seconds


class Running:
    """A sandbox that serves in a process of its own; its output goes to two files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._out, self._err = (folder / f"{name}-{uuid4().hex}.txt" for name in ("out", "err"))
        for path in (self._out, self._err):
            path.touch()
        words = ["sandbox", "--port", "0", *options]
        self.process = Command(words, os.environ, out=self._out, err=self._err, folder=folder)
        wait_until(lambda: self.process.poll() is not None or self._url(), seconds=DEADLINE)
        self.url = self._url()
        assert self.url, self.complained

    @property
    def said(self) -> str:
        """What is on stdout so far."""
        return self._out.read_text(encoding="utf-8")

    @property
    def complained(self) -> str:
        """What is on stderr so far."""
        return self._err.read_text(encoding="utf-8")

    def _url(self) -> str:
        found = re.search(r'^api_url = "(.*)"\n', self.said, re.MULTILINE)
        return found[1] if found else ""

    def identify(self, *users: str, key: str = DEVELOPMENT_KEY, again: bool = False) -> httpx.Response:
        """Post one batch with an identify of each user; with `again` under keys that were used before."""
        events = [
            {
                "api_key": key,
                "type": "identify",
                "idempotency_key": f"{user}-{0 if again else time.monotonic_ns()}",
                "sent_at": "2026-03-31T12:00:00Z",
                "body": {"keys": {"userId": user}, "traits": {"gold": True}},
            }
            for user in users
        ]
        return httpx.post(f"{self.url}/batch", json={"events": events}, timeout=DEADLINE, verify=False)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        """End it however it stands."""
        self.process.kill()
        self.process.wait()


class Serve(Protocol):
    """Starts `audience-sync sandbox` on a free port, with more options."""

    def __call__(self, *options: str) -> Running:
        """Return it once it serves."""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that starts sandboxes; they are ended with the test."""
    with ExitStack() as stack:

        def start(*options: str) -> Running:
            running = Running(tmp_path, *options)
            stack.callback(running.close)
            return running

        yield start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_and_says_what_it_received(serve: Serve, number: signal.Signals) -> None:
    """A signal ends the sandbox, with exit code 0 and a summary of this session."""
    running = serve()
    running.identify("u1", "u2", again=True)
    running.identify("u1", again=True)
    code = running.end(number)

    assert code == 0
    assert running.complained.splitlines()[-1] == (
        "received 2 requests (2 answered 200); events: 2 processed, 1 duplicates, 0 failed; stored in sandbox.db"
    )


def test_every_request_is_one_line_on_stderr(serve: Serve) -> None:
    """What arrives is shown: when, how it was answered, how many events, and what became of them; never the key."""
    running = serve()
    running.identify("u1", "u2", again=True)
    running.identify("u2", again=True)
    running.identify("u1", key="sch_dev_other")
    httpx.get(f"{running.url}/whoami", verify=False, headers={"X-Schematic-Api-Key": DEVELOPMENT_KEY})
    running.end()
    lines = [line.partition("  ")[2] for line in running.complained.splitlines()[:-1]]

    assert lines == [
        "200  /batch  2 events",
        "200  /batch  1 event, 1 duplicate",
        "401  /batch  1 event",
        "200  /whoami",
    ]
    assert "sch_dev_" not in running.complained


def test_quiet_leaves_the_summary(serve: Serve) -> None:
    """With --quiet only the end is told."""
    running = serve("--quiet")
    running.identify("u1")
    running.end()

    assert len(running.complained.splitlines()) == 1


def test_the_lines_it_prints_are_a_configuration(serve: Serve, tmp_path: Path) -> None:
    """The printed lines, pasted into a file, lead to this sandbox with the key that is printed beside them."""
    running = serve("--key", "sch_dev_mine")
    config = tmp_path / "config.toml"
    config.write_text(running.said[running.said.index("[schematic]") :], encoding="utf-8")
    exported = dict([re.findall(r"export (\w+)=(\S+)", running.said)[0]])
    schematic = load(config, {}).schematic

    assert [schematic.capture_url, schematic.api_url] == [running.url, running.url]
    assert running.identify("u1", key=resolve_api_key(schematic, exported).get_secret_value()).status_code == 200
    assert running.identify("u1", key=DEVELOPMENT_KEY).status_code == 401


def test_it_fails_and_waits_as_asked(serve: Serve) -> None:
    """--fail-rate, --fail-status and --delay make event requests fail and take their time, and stderr says so."""
    running = serve("--fail-rate", "1", "--fail-status", "503", "--delay", "50ms")
    answered = running.identify("u1")
    running.end()

    assert answered.status_code == 503
    assert answered.elapsed.total_seconds() >= 0.05
    assert "503  /batch  1 event, fault: status 503" in running.complained


def test_some_requests_fail_and_others_pass(serve: Serve) -> None:
    """A rate between 0 and 1 lets some requests through."""
    running = serve("--fail-rate", "0.5")
    statuses = {running.identify("u1").status_code for _ in range(40)}

    assert statuses == {200, 500}


def test_what_it_received_survives(serve: Serve, tmp_path: Path) -> None:
    """A sandbox started again on the same file still believes what it was told, and tells only its own session."""
    first = serve("--database", "told.db")
    first.identify("u1")
    first.end()
    second = serve("--database", "told.db")
    second.end()
    ledger = Ledger(tmp_path / "told.db")

    assert ledger.traits_of("userId", "u1") == {"gold": True}
    assert second.complained.startswith("received 0 requests;")
    ledger.close()


def test_it_goes_on_counting_after_it_was_emptied(serve: Serve) -> None:
    """Requests after POST /sandbox/reset are shown, though the ledger numbers them from one again."""
    running = serve()
    running.identify("u1")
    running.identify("u2")
    wait_until(lambda: running.complained.count("/batch") == 2, seconds=DEADLINE)
    httpx.post(f"{running.url}/sandbox/reset", verify=False)
    running.identify("u3", "u4", "u5")
    running.end()

    assert "3 events" in running.complained


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--database", "nowhere/sandbox.db"], "nowhere/sandbox.db cannot be used as the sandbox's database"),
        (["--delay", "soon"], "is not a valid duration"),
        (["--fail-rate", "2"], "--fail-rate"),
    ],
)
def test_what_cannot_be_is_one_clear_error(tmp_path: Path, options: list[str], sentence: str) -> None:
    """A file or a value that cannot be used ends the command with exit code 2 and says which."""
    ended = call(["sandbox", "--port", "0", *options], os.environ, folder=tmp_path)

    assert ended.code == 2
    assert sentence in ended.err
    assert "Traceback" not in ended.err


def test_a_port_in_use_is_one_clear_error(serve: Serve, tmp_path: Path) -> None:
    """A second sandbox on the same port says so, and what to do."""
    port = serve().url.rpartition(":")[2]
    ended = call(["sandbox", "--port", port, "--database", "other.db"], os.environ, folder=tmp_path)
    error, remedy = ended.err.splitlines()

    assert ended.code == 2
    assert error.startswith(f"error: the sandbox cannot listen on 127.0.0.1:{port}: ")
    assert remedy.startswith("hint: ")
