"""What a start costs: which modules `--version`, `--help` and a small `check` import, and what `--help` lists."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

from audience_sync.cli.main import COMMANDS, SECTIONS, load

HEAVY = {
    "sqlalchemy", "pydantic", "rich", "httpx", "apscheduler", "alembic", "lark", "structlog", "duckdb", "psycopg",
    "starlette", "uvicorn", "slugify", "orjson",
}  # fmt: skip
RUN = """
import gc
import sys
from audience_sync.__main__ import main
sys.argv = ["audience-sync", *sys.argv[1:]]
try:
    main()
finally:
    sys.stdout.flush()
    print("collects:", gc.get_threshold()[0], file=sys.stderr)
    print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def imported_by(*words: str, folder: Path | None = None) -> tuple[str, set[str]]:
    """Return what a command prints, and the top-level modules it has imported at its end."""
    environment = {**os.environ, "COLUMNS": "80", "SCHEMATIC_API_KEY": "sch_dev_sandbox"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    return done.stdout, set(done.stderr.rpartition("imported: ")[2].split())


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("-h",), ()])
def test_version_and_help_import_no_large_library(words: tuple[str, ...]) -> None:
    """`--version` and `--help` answer in a moment: they import Typer and the table of commands."""
    assert imported_by(*words)[1] & HEAVY == set()


@pytest.mark.slow
def test_check_imports_only_the_drivers_it_needs(tmp_path: Path) -> None:
    """`check` of a SQLite source imports neither DuckDB, PostgreSQL, Alembic, a web server nor a scheduler."""
    (tmp_path / "config.toml").write_text(
        '[schematic]\napi_url = "http://127.0.0.1:9"\ncapture_url = "http://127.0.0.1:9"\n'
        '[sources.shop]\nurl = "sqlite:///shop.db"\n[[audiences]]\nname = "VIP"\nsql = "SELECT 1 AS user_id"\n'
    )
    out, imported = imported_by("check", folder=tmp_path)

    assert "is valid: 1 audience, 1 source" in out
    unused = {"duckdb", "psycopg", "alembic", "starlette", "uvicorn", "apscheduler", "structlog", "prometheus_client"}
    assert imported & unused == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_says_what_the_commands_say(name: str) -> None:
    """`--help` lists each command with the first sentence of its own help."""
    first = (load(name).help or "").partition("\n\n")[0].replace("\n", " ")

    assert first == COMMANDS[name].help


def test_help_lists_every_command_on_one_line() -> None:
    """At 80 columns `--help` has one line for each command, in its section."""
    lines = imported_by("--help")[0].splitlines()

    for title, section in SECTIONS.items():
        start = lines.index(f"{title}:") + 1
        width = max(map(len, section))
        assert lines[start : start + len(section)] == [
            f"  {name:<{width}}  {listed.help}" for name, listed in section.items()
        ]


def test_the_table_of_commands_is_complete() -> None:
    """Every command that a module of the table registers is in the table, and so can be run."""
    for module in {listed.module for listed in COMMANDS.values()}:
        app = typer.Typer()
        import_module(f"audience_sync.cli.{module}").register(app)
        registered = {*typer.main.get_group(app).commands}
        assert registered == {name for name, listed in COMMANDS.items() if listed.module == module}


def test_the_garbage_collector_waits_for_many_objects() -> None:
    """Rows and imports make objects by the thousand and few cycles: the collector runs once in 100,000 of them."""
    done = subprocess.run([sys.executable, "-c", RUN, "--version"], capture_output=True, text=True, check=False)

    assert "collects: 100000\n" in done.stderr
