"""Shells complete commands, options and audiences: in a real bash, and by the protocol of zsh and fish."""

from __future__ import annotations

import os
import pty
import resource
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audience_sync.cli.main import COMMANDS, NAME
from audience_sync.cli.shell_completion import COMPLETION_VARIABLE, WORDS, script
from tests.commands import call
from tests.completion_words import completion_words

BASH = shutil.which("bash")
PROGRAMS = Path(sys.executable).parent
DEADLINE = 30.0  # seconds
CONFIG = """
include = ["more/*.toml"]
[sources.shop]
url = "sqlite:///shop.db"
[[audiences]]
name = "Big Spenders"
sql = "SELECT 1 AS user_id"
[[audiences]]
name = "VIP"
key = "gold"
sql = "SELECT 1 AS user_id"
[[traits]]
name = "Bigger"
sql = "SELECT 1 AS user_id, 2 AS value"
"""
COMPLETE = """
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_audience_sync_completion audience-sync
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration that includes another file."""
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "more").mkdir()
    os.mkfifo(tmp_path / "more/pipe.toml")  # passed over: reading it would never end
    (tmp_path / "more/dogs.toml").write_text('[[audiences]]\nname = "Dog Owners"\nsql = "SELECT 1 AS user_id"\n')
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a shell in which the program is installed."""
    return {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "AUDIENCE_SYNC_CONFIG": "", **more}


def completed(folder: Path, *words: str) -> list[str]:
    """Return what bash makes of the last of some words."""
    done = subprocess.run(
        [str(BASH), "--norc", "-c", script("bash", NAME) + COMPLETE, "bash", *words],
        capture_output=True, text=True, cwd=folder, env=environment(), check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("s", {"schema", "service", "status", "sync", "sandbox"}),
        ("--v", {"--version"}),
        ("sync --no", {"--now", "--no-deliver"}),
        ("dead ", {"list", "retry", "discard"}),
        ("dead list --ev", {"--events"}),
        ("members --format ", {"table", "json", "csv"}),
        ("runs --state s", {"stale", "succeeded", "superseded"}),
        ("runs --state = s", {"stale", "succeeded", "superseded"}),  # bash splits --state=s
        ("members --format =", {"table", "json", "csv"}),
        ("members --format = json g", {"gold"}),
        ("sync ", {"big_spenders", "gold", "bigger", "dog_owners"}),
        ("sync gold bi", {"big_spenders", "bigger"}),
        ("explain u1 d", {"dog_owners"}),
        ("dead list g", {"gold"}),
        ("approve g", {"gold"}),
        ("completion ", {"bash", "zsh", "fish"}),
        ("sync VI", set()),
        ("forward ev", set()),
    ],
)
def test_bash_completes(folder: Path, line: str, expected: set[str]) -> None:
    """Commands, options, choices and keys are completed; file names are left to the shell."""
    assert set(completed(folder, "audience-sync", *line.split(" "))) == expected


def test_all_commands_are_completed(folder: Path) -> None:
    """An empty word can become any command."""
    assert completed(folder, "audience-sync", "") == list(COMMANDS)


def test_the_configuration_of_the_line_is_read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys come from --config where it is given, also with ~ for the home directory."""
    away = tmp_path_factory.mktemp("away")

    assert completed(away, "audience-sync", "sync", "g") == []
    assert completed(away, "audience-sync", "--config", str(folder / "config.toml"), "sync", "g") == ["gold"]
    (away / "config.toml").write_text("")
    assert completed(away, "audience-sync", "--config", f"{folder}/config.toml", "pause", "g") == ["gold"]


@pytest.mark.parametrize(
    "text",
    [
        "[[audiences",
        "audiences = 7\ntraits = [1, {name = 2}, {key = 'not a key'}, {key = \"$(reboot)\"}]",
        "include = [7, 'more/\\u0000', '/nowhere/*.toml', 'config.toml']",
        "\xff",
    ],
)
def test_a_broken_configuration_completes_nothing_and_says_nothing(folder: Path, text: str) -> None:
    """Nothing is printed into the line that a person is typing."""
    (folder / "config.toml").write_bytes(text.encode("latin-1"))

    assert completed(folder, "audience-sync", "sync", "") == []
    (folder / "config.toml").unlink()
    assert completed(folder, "audience-sync", "sync", "") == []


@contextmanager
def typing(folder: Path) -> Iterator[int]:
    """Yield the terminal of an interactive bash."""
    bash, terminal = pty.fork()
    if bash == 0:
        os.chdir(folder)
        os.execve(
            str(BASH), ["bash", "--norc", "--noprofile", "-i"], environment(TERM="dumb", PS1="", HOME=str(folder))
        )
    try:
        yield terminal
    finally:
        os.close(terminal)  # it hangs up
        os.waitpid(bash, 0)


def read_until(terminal: int, text: str) -> str:
    """Return what a terminal shows until it shows a text."""
    shown, end = "", time.monotonic() + DEADLINE
    while text not in shown:
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


def test_a_person_presses_tab(folder: Path) -> None:
    """At a prompt, the key of an audience is completed and the command can be run."""
    with typing(folder) as terminal:
        os.write(terminal, b"source <(audience-sync completion bash); echo rea''dy\n")
        read_until(terminal, "ready\r\n")
        os.write(terminal, b"audience-sync members --format=js\t")
        read_until(terminal, "--format=json ")
        os.write(terminal, b"\x15audience-sync pau\t")
        read_until(terminal, "pause ")
        os.write(terminal, b"dog\t")
        read_until(terminal, "dog_owners")
        os.write(terminal, b"\x01echo '\x05'\n")
        assert "audience-sync pause dog_owners" in read_until(terminal, "dog_owners \r\n").splitlines()[-1]


@pytest.mark.parametrize(
    ("shell", "line", "expected"),
    [
        ("zsh", "audience-sync sync go", "_arguments '*: :((\"gold\"))'\n"),
        ("zsh", "audience-sync forward ev", "_files\n"),
        ("fish", "audience-sync sync ", "big_spenders\ngold\nbigger\ndog_owners\n"),
    ],
)
def test_other_shells_get_the_same(folder: Path, shell: str, line: str, expected: str) -> None:
    """Zsh and fish get the same completions, in the form that the scripts of Typer read."""
    asked = {
        COMPLETION_VARIABLE: f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = call([], environment(**asked), folder=folder)

    assert (done.code, done.out, done.err) == (0, expected, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_name_the_program_and_its_variable(shell: str) -> None:
    """Each script asks this program."""
    done = call(["completion", shell], environment())

    assert (done.code, done.err) == (0, "")
    assert f"{COMPLETION_VARIABLE}=complete_{shell}" in done.out


def test_the_table_of_words_is_that_of_the_commands() -> None:
    """`python -m tests.completion_words --record` writes the table anew when commands change."""
    assert WORDS.read_text(encoding="utf-8") == completion_words()


RUN = """
import sys
from audience_sync.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
LARGE = {"sqlalchemy", "rich", "httpx", "apscheduler", "alembic", "lark", "duckdb", "audience_sync.config"}


def test_completion_imports_no_large_library(folder: Path) -> None:
    """Completion answers while a person waits: a quarter of a second of processor time on an idle machine."""
    asked = {COMPLETION_VARIABLE: "complete_bash", "COMP_WORDS": "audience-sync\nsync\nb", "COMP_CWORD": "2"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, cwd=folder, env=environment(**asked), check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert done.stdout.split() == ["big_spenders", "bigger"]
    assert LARGE & set(done.stderr.split()) == set()
    assert after.ru_utime - before.ru_utime < 2.0  # a busy machine is slower
