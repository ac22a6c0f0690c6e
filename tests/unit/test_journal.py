"""Lines under journald: every one has its priority, whoever wrote it; elsewhere none has."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from audience_sync import logs
from audience_sync.cli.context import console
from audience_sync.journal import is_journal, with_priority

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@contextmanager
def configured() -> Iterator[None]:
    """Set the logs up as `run` does, and put everything back."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        logs.configure()
        yield
    finally:
        root.handlers, root.level = handlers, level
        structlog.configure(**before)


def written(path: Path, monkeypatch: pytest.MonkeyPatch, *, journal: bool, work: Callable[[], None]) -> list[str]:
    """Return what is on standard error after some work, where standard error is a journal's stream or is not."""
    with path.open("w+") as stream:
        status = os.fstat(stream.fileno())
        inode = status.st_ino if journal else status.st_ino + 1
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{inode}")
        monkeypatch.setattr(sys, "stderr", stream)
        with configured():
            work()
        stream.seek(0)
        return stream.read().splitlines()


def work() -> None:
    """Log at each level, through structlog and as a library does, and say something to a person."""
    log = structlog.get_logger()
    log.debug("looked")
    log.info("started", audiences=2)
    log.warning("blocked", reason="two\nlines")
    try:
        int("a secret")
    except ValueError:
        log.exception("crashed")
        logging.getLogger("apscheduler").exception("job crashed")
    logging.getLogger("httpx").warning("odd %s", "answer")
    logging.getLogger("httpx").info("every request")
    console.print("[red]error:[/] config.toml has 1 problem:\n  sources: missing")
    console.print("[yellow]warning:[/] anybody can read the key")
    console.print("membership database: audience_sync.db")


def test_every_line_has_its_priority_under_journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`journalctl -p warning` finds warnings and errors, of the daemon, of its libraries and of its last words."""
    lines = written(tmp_path / "journal", monkeypatch, journal=True, work=work)
    logged = [json.loads(line[3:]) for line in lines if line[3] == "{"]

    assert [line[:3] for line in lines] == [
        "<7>", "<6>", "<4>", "<3>", "<3>", "<4>", "<3>", "<3>", "<4>", "<6>",
    ]  # fmt: skip
    assert [(line["event"], line["level"]) for line in logged] == [
        ("looked", "debug"),
        ("started", "info"),
        ("blocked", "warning"),
        ("crashed", "error"),
        ("job crashed", "error"),
        ("odd answer", "warning"),
    ]
    assert all(TIMESTAMP.fullmatch(line["timestamp"]) for line in logged)
    assert [line.get("logger") for line in logged[-2:]] == ["apscheduler", "httpx"]
    assert all("ValueError\n  " in line["exception"] for line in logged[3:5])
    assert "a secret" not in "".join(lines)
    assert lines[-4:] == [
        "<3>error: config.toml has 1 problem:",
        "<3>  sources: missing",
        "<4>warning: anybody can read the key",
        "<6>membership database: audience_sync.db",
    ]


def test_no_line_has_a_priority_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a pipe gets plain JSON, though the variable of a parent's journal is set."""
    lines = written(tmp_path / "file", monkeypatch, journal=False, work=work)

    assert [line[0] for line in lines] == ["{"] * 6 + list("e wm")
    assert TIMESTAMP.fullmatch(json.loads(lines[1])["timestamp"])


def test_a_terminal_gets_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal nobody reads Python: lists are joined, and a field without a value is left out."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with configured():
        log = structlog.get_logger()
        log.info(
            "configuration_reloaded",
            audiences=0,
            added=("a", "b"),
            removed=(),
            settings=[],
            is_new=False,
            next_sync_at=None,
        )
        log.error("reload_failed", problems=["c.toml has 2 problems:", "  line 1: x", "  line 2: y"], hint=None)
    said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)
    reloaded, refused = (line[TIMESTAMP.match(line).end() :].split(None, 2)[2] for line in said.splitlines())  # type: ignore[union-attr]

    assert " ".join(reloaded.split()) == "configuration_reloaded added='a, b' audiences=0 is_new=False"
    assert " ".join(refused.split()) == "reload_failed problems='c.toml has 2 problems: line 1: x, line 2: y'"


def test_a_stream_that_is_not_a_file_is_not_the_journal() -> None:
    """A captured stream, or one that is closed, is nothing that systemd has connected."""
    closed = io.StringIO()
    closed.close()

    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
    assert not is_journal(closed, {"JOURNAL_STREAM": "1:2"})
    assert not is_journal(sys.__stderr__ or sys.stderr, {})


@pytest.mark.parametrize(
    ("level", "expected"),
    [("critical", "<2>a\n<2>b"), ("error", "<3>a\n<3>b"), ("debug", "<7>a\n<7>b"), ("unknown", "<6>a\n<6>b")],
)
def test_each_line_of_a_text_has_the_priority(level: str, expected: str) -> None:
    """To journald every line is an entry of its own."""
    assert with_priority("a\nb", level) == expected


def test_a_reader_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written is lost; the daemon goes on."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with configured():
            structlog.get_logger().error("nobody reads this")
            logging.getLogger("apscheduler").error("nor this")
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # so that it can be closed
