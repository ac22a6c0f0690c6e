"""Generate the references of commands and of settings in the manual.

`python -m tests.command_page --record` writes them into the pages `commands.md` and `configuration.md`, after the line
`MARK`; without `--record`, the module prints what it would write.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from audience_sync.cli.main import COMMANDS, NAME, SECTIONS, build, load
from audience_sync.manual.manual_pages import FOLDER

PAGE = FOLDER / "commands.md"
SETTINGS_PAGE = FOLDER / "configuration.md"
EXAMPLE = FOLDER.parents[1] / "config.example.toml"
MARK = "<!-- The rest of this page is generated: python -m tests.command_page --record -->\n"


def reference() -> str:
    """Return the generated part of the page: all commands by section, then each command with its options."""
    sections = (f"**{title}**\n\n{_table('command', map(_row, section))}" for title, section in SECTIONS.items())
    context = typer.main.get_command(build()).make_context(NAME, [], resilient_parsing=True)
    before = "These options come before the name of the command:"
    parts = ["## All commands", *sections, before, *_options(context.command, context)]
    return "\n" + "\n\n".join([*parts, *(part for name in COMMANDS for part in _command(name))]) + "\n"


def page() -> str:
    """Return the whole page as it should be."""
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    return head + mark + reference()


def settings() -> str:
    """Return the generated part of the page on configuration."""
    return f"\n## All settings\n\n```toml\n{EXAMPLE.read_text(encoding='utf-8')}```\n"


def settings_page() -> str:
    """Return the whole page on configuration as it should be."""
    head, mark, _ = SETTINGS_PAGE.read_text(encoding="utf-8").partition(MARK)
    return head + mark + settings()


def _row(name: str) -> tuple[str, str]:
    return f"[`{name}`](#{name})", COMMANDS[name].help


def _command(name: str) -> Iterator[str]:
    command = load(name)
    yield f"## {name}"
    if isinstance(command, TyperGroup):
        yield _prose(command.help)
        for inner, subcommand in command.commands.items():
            yield f"### {name} {inner}"
            yield from _described(f"{name} {inner}", subcommand)
    else:
        yield from _described(name, command)


def _described(name: str, command: Any) -> Iterator[str]:
    """Yield the parts of a command: its help, usage, arguments and options, and example."""
    context = command.make_context(name, [], resilient_parsing=True)
    yield _prose(command.help)
    usage = " ".join(command.collect_usage_pieces(context))
    example = (command.epilog or "").removeprefix("Example: ")
    yield f"```text\n{NAME} {name} {usage}\n```"
    yield from _options(command, context)
    yield f"```sh\n{example}\n```"


def _options(command: Any, context: Any) -> Iterator[str]:
    """Yield the table of arguments and options, if there are any but `--help`."""
    records = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    if rows := [(f"`{names}`", text) for names, text in records if "--help" not in names]:
        yield _table("option", rows)


def _prose(text: str | None) -> str:
    """Return a help text with one line for each paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text or ""))


def _table(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    cells = [tuple(" ".join(cell.replace("|", r"\|").split()) for cell in row) for row in rows]
    return "\n".join([f"| {heading} | |", "|---|---|", *(f"| {first} | {second} |" for first, second in cells)])


def main() -> None:
    """Print the references, or write them."""
    if sys.argv[1:] == ["--record"]:
        PAGE.write_text(page(), encoding="utf-8")
        SETTINGS_PAGE.write_text(settings_page(), encoding="utf-8")
    else:
        sys.stdout.write(reference() + settings())


if __name__ == "__main__":
    main()
