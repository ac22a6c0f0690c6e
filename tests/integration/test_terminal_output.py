"""What commands print on terminals of several widths, and elsewhere: no word and no number is ever cut."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
import typer
from rich.cells import cell_len

from audience_sync.cli import main, plan_output, run_output
from audience_sync.cli.console import Format, print_records
from audience_sync.cli.main import COMMANDS as TABLE
from audience_sync.cli.text_table import lay_out
from audience_sync.store.database import Database, connect
from tests import large_database
from tests.large_database import LONG, OUTAGE, REASON, REFUSAL, USUAL, Names, fill

WIDTHS = (40, 80, 100, 140)
COMMANDS = (
    "status", "status --holders", "audiences", "runs", "runs --limit 1", "runs {audience}", "changes",
    "changes {audience}", "rejections", "events", "events --reasons", "dead list", "dead list {trait}",
    "members {audience}", "members {trait}", "profile {person}", "profile {other}",
)  # fmt: skip
HINT = "columns hidden at this width: widen the terminal or use `--format json`"
COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Return all its lines."""
        return [*self.out.splitlines(), *self.err.splitlines()]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Callable[[Names], Path]:
    """Return a function that gives the folder of a database with some names; each is filled once."""
    folders: dict[Names, Path] = {}

    def folder_of(names: Names) -> Path:
        if names not in folders:
            folder = folders[names] = tmp_path_factory.mktemp("filled")
            shutil.copy(sqlite_template, folder / "audience_sync.db")
            fill(folder, f"sqlite:///{folder / 'audience_sync.db'}", names)
        return folders[names]

    return folder_of


@pytest.fixture
def show(
    filled: Callable[[Names], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Return a function that runs a command on a terminal of some width, or with its output in pipes."""
    monkeypatch.setenv("TERM", "dumb")

    def run(command: str, names: Names = LONG, *, width: int | None = 80, code: int = 0) -> Said:
        words = [word.format(**vars(names)) for word in command.split()]
        monkeypatch.setenv("COLUMNS", str(width or 40))
        monkeypatch.setattr(sys, "argv", ["audience-sync", "--config", str(filled(names) / "config.toml"), *words])
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: width is not None)
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == code
        return Said(*capsys.readouterr())

    return run


def cut_words(printed: str, whole: str, names: str) -> set[str]:
    """Return the words of some output that are not in the whole output, apart from names of columns."""
    words, labels = set(whole.split()), {name.strip(",:;") for name in names.split()}
    strange = {word for word in printed.split() if word not in words and word.rstrip(",:;") not in labels}
    return {word for word in strange if not any(is_part_of_json(word, one) for one in words)}


def is_part_of_json(word: str, whole: str) -> bool:
    """Return whether a word is what stands between two commas of a JSON text."""
    return word[0] in '{["' and (whole.endswith(word) or (word in whole and word.endswith(",")))


@pytest.mark.parametrize("names", [LONG, USUAL], ids=["long", "usual"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_word_is_cut(show: Callable[..., Said], names: Names, command: str) -> None:
    """A line is as wide as the terminal at most, unless it is one word; each word is one of the piped output's."""
    piped = show(command, names, width=None)
    for width in WIDTHS if names is LONG else (80,):
        seen = show(command, names, width=width)

        assert [line for line in seen.lines if cell_len(line) > width and len(line.split()) > 1] == []
        assert cut_words(seen.out, piped.out, names=piped.out) == set()
        assert cut_words(seen.err, f"{piped.err} {HINT}", names=piped.out) == set()


@pytest.mark.parametrize("width", WIDTHS)
def test_long_reasons_are_whole_at_every_width(show: Callable[..., Said], width: int) -> None:
    """The reason of a blocked or failed run, a dead change and a failing batch can be read to its end."""
    for command, reasons in (
        ("status", (REASON, OUTAGE)),
        ("runs", (REASON, OUTAGE)),
        ("dead list", (REFUSAL,)),
        ("profile {person}", (REFUSAL, OUTAGE)),
    ):
        text = " ".join(show(command, width=width).out.split())

        assert [reason for reason in reasons if reason not in text] == [], command


def test_elsewhere_a_record_is_one_line_with_every_column(show: Callable[..., Said]) -> None:
    """A pipe gets the same lines whatever COLUMNS says: the header once, and a line for each record."""
    runs = show("runs", width=None)
    header, *lines = runs.out.splitlines()

    assert header.split() == [
        "id", "audience", "kind", "state", "as_of", "read", "entered", "exited", "updated", "rejected", "sent",
        "reason",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines] == ["1205", "1204", "1203", "1202", "1201"]
    assert lines[1].endswith(f"  {REASON}")
    assert runs.err == ""


def test_elsewhere_the_header_stands_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of thousands has one header, and its columns stay where they are as long as the cells fit."""
    monkeypatch.setenv("COLUMNS", "1")
    print_records(({"n": n, "x": "y"} for n in range(100_000, 102_500)), ("n", "x"), format=Format.TABLE)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "     n  x"
    assert lines[1:] == [f"{n}  y" for n in range(100_000, 102_500)]


def test_runs_at_80_columns(show: Callable[..., Said]) -> None:
    """The screen of `runs`, word for word."""
    assert (
        show("runs").out
        == f"""\
  id  audience                                  state       entered   exited
1205  {LONG.retired}  superseded  6895779  3104221
1204  {LONG.audience}  blocked     6895779  3104221
    reason: 3,104,221 would exit, 31.0 % of the 10,000,000 members before;
      max_exit_percent allows 30 %; 9,876,543 would be updated, 98.8 % of the
      10,000,000 members before; max_update_percent allows 50 %
1203  {LONG.trait}  failed      6895779  3104221
    reason: source shop: (1146) POST https://c.schematichq.com/batch: 503
      Service Unavailable, upstream connect error or disconnect/reset before
      headers; the last of 12 tries took 30.0 s; 1,234,567 events wait behind it
      and are sent when Schematic answers
1202  {LONG.paused}  succeeded   6895779  3104221
1201  {LONG.audience}  succeeded   6895779  3104221
"""
    )
    assert show("runs").err == (
        "columns hidden at this width: kind, as_of, read, updated, rejected, sent; widen\n"
        "the terminal or use `--format json`\n"
    )


def test_sync_at_80_columns(
    show: Callable[..., Said], filled: Callable[[Names], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The table with which `sync`, `approve` and `retract` end, word for word."""
    show("status", USUAL)
    with closing(connect(f"sqlite:///{filled(USUAL) / 'audience_sync.db'}")) as database:
        run_output.show_run_ids(database, [1201, 1203, 1204], format=Format.TABLE)

    said = Said(*capsys.readouterr())
    assert (
        said.out
        == """\
  id  audience                     state      entered   exited  dead   members
1201  order_completed_last_30days  succeeded  6895779  3104221     0  10000000
1203  total_spend_90_days          failed     6895779  3104221     0   9999999
    reason: source shop: (1146) POST https://c.schematichq.com/batch: 503
      Service Unavailable, upstream connect error or disconnect/reset before
      headers; the last of 12 tries took 30.0 s; 1,234,567 events wait behind it
      and are sent when Schematic answers
1204  order_completed_last_30days  blocked    6895779  3104221     2  10000000
    reason: 3,104,221 would exit, 31.0 % of the 10,000,000 members before;
      max_exit_percent allows 30 %; 9,876,543 would be updated, 98.8 % of the
      10,000,000 members before; max_update_percent allows 50 %
"""
    )
    assert said.err.endswith("or use `--format json`\n")


def test_dead_list_at_80_columns(show: Callable[..., Said]) -> None:
    """Two keys of 40 characters need 82 columns: each dead row is a block."""
    block = f"""\
audience     {LONG.trait}
profile_key  {LONG.person}
value        12345678.25
since        2026-11-29 14:06:09Z
reason       Schematic answered 400: {{"error":"keys.email: must be a valid
             address of at most 254 characters"}} for the event with the
             idempotency key 5f1d7a84c3b2e96f0a1b2c3d4e5f6071, and it was alone
             in its request; the trait is unknown
run_id       1204
generation   {large_database.AT}
"""
    said = show("dead list")

    assert sorted(block.splitlines()) == sorted(said.out.split("\n\n")[0].splitlines()) or block in said.out
    assert said.err == ""


@pytest.mark.parametrize("name", ["[red]", "[/]", "a:warning:b", "[link=x]"])
def test_paths_are_not_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons in the address of a database or the path of a file are printed as they are."""
    run_output.print_database(Database(sa.create_engine("postgresql+psycopg://reader@[fe80::1]/memberships")))
    run_output.note(f"gold is still in /etc/{name}/config.toml")

    assert capsys.readouterr().err == (
        "membership database: postgresql+psycopg://reader@[fe80::1]/memberships\n"
        f"note: gold is still in /etc/{name}/config.toml\n"
    )


def test_plan_at_80_columns() -> None:
    """The summary of `plan`: whether and how long, before how many requests and in which state."""
    rows = [
        {"audience": key, "enter": 6_895_779, "exit": 3_104_221, "update": 987_654, "requests": 123_456, "state": state,
         "time": "0:41:10"}
        for key, state in ((LONG.audience, "blocked"), (LONG.trait, "ready"), (plan_output.TOTAL, ""))
    ]  # fmt: skip
    layout = lay_out(plan_output.SHOWN, rows, 80)

    assert [line.plain for line in layout.lines] == [
        "audience                                    enter     exit  update  time",
        f"{LONG.audience}  6895779  3104221  987654  0:41:10",
        f"{LONG.trait}  6895779  3104221  987654  0:41:10",
        f"{plan_output.TOTAL:<40}  6895779  3104221  987654  0:41:10",
    ]
    assert layout.hidden == ("requests", "state")
    assert lay_out(plan_output.SHOWN, rows, 100).hidden == ()


def test_a_question_is_wrapped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question before something that cannot be undone leaves space for its answer on the last line."""
    asked: list[str] = []
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda question, **_: asked.append(question))
    run_output.confirm(f"Send false to 10,000,000 members of {LONG.audience}, and never use this key again?", yes=False)

    lines = ["Send false to 10,000,000 members of", f"{LONG.audience}, and never", "use this key again?"]
    assert asked == ["\n".join(lines)]


@pytest.mark.parametrize("width", WIDTHS)
def test_help_fits(show: Callable[..., Said], width: int) -> None:
    """Help is wrapped on narrow terminals, too; from 80 columns on no word of it is cut."""
    for command in ("--help", *(f"{name} --help" for name in TABLE), "dead list --help"):
        said = show(command, width=width)

        assert [line for line in said.out.splitlines() if len(line) > width] == []
        assert width < 80 or cut_words(said.out, show(command, width=200).out, names="") == set()


def test_a_usage_error_fits(show: Callable[..., Said]) -> None:
    """An unknown option or a wrong value is told in lines that fit the terminal; in a pipe it is one line."""
    wrong = "Error: Invalid value for '--now': `noon` is not a time, such as `yesterday`, `2 days ago`, `2026-11-01` or"
    usage = ["Usage: audience-sync plan [OPTIONS] [AUDIENCE]...", "Try 'audience-sync plan --help' for help.", ""]

    assert show("plan --now noon", width=60, code=2).err.splitlines() == [
        *usage,
        "Error: Invalid value for '--now': `noon` is not a time, such",
        "as `yesterday`, `2 days ago`, `2026-11-01` or",
        "`2026-11-01 10:00`",
    ]
    assert show("plan --now noon", width=None, code=2).err.splitlines()[-1] == f"{wrong} `2026-11-01 10:00`"


@pytest.mark.parametrize("command", [*(f"{name} --help" for name in TABLE), "dead list --help"])
def test_help_shows_no_python_types(show: Callable[..., Said], command: str) -> None:
    """A value is named by a word for people, such as FILE; only choices are in angle brackets. Durations are short."""
    out = show(command, width=120).out
    shown = re.findall(r"<[^>]*>", out)

    assert [one for one in shown if "|" not in one] == []
    assert re.search(r"\d:\d\d:\d\d", out) is None
    assert "--wait" not in out or "[default: 1m]" in out


def test_columns_are_named_once(show: Callable[..., Said]) -> None:
    """However many tables a command prints, the columns that it hides are named once, at its end."""
    said = show("profile {person}")

    assert said.err.count("columns hidden at this width") == 1
    assert " ".join(said.err.split()).startswith("columns hidden at this width: computation, identifiers, ")


def test_a_real_terminal(filled: Callable[[Names], Path]) -> None:
    """A process on a terminal of 80 columns asks it for its width, and prints the header in bold."""
    main_end, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-m", "audience_sync", "--config", str(filled(LONG) / "config.toml"), "runs"]
    process = subprocess.Popen(
        command, stdin=other_end, stdout=other_end, stderr=other_end, env={**environment, "TERM": "xterm-256color"}
    )  # fmt: skip
    os.close(other_end)
    printed = b""
    try:
        while chunk := os.read(main_end, 65536):
            printed += chunk
    except OSError:  # the process has closed its end
        pass
    finally:
        os.close(main_end)
        code = process.wait(60)

    header, *lines = printed.decode().splitlines()
    assert code == 0
    assert header == "\x1b[1m  id  audience                                  state       entered   exited\x1b[0m"
    assert max(map(len, lines)) == 80
    assert "hidden" in COLOR.sub("", lines[-2])
