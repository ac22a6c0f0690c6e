"""What every command shares: the configuration it was told, and the console it talks to people on."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from audience_sync.cli.globals import Globals
from audience_sync.config import Settings
from audience_sync.core.printable import printable
from audience_sync.seams import Seams


class Sayings(Console):
    """A console that prints sentences whose words may come from others: none of them steers the terminal."""

    def print(self, *objects: object, **options: Any) -> None:
        """Print as a console does."""
        super().print(*map(_harmless, objects), **options)


def _harmless(said: object) -> object:
    if isinstance(said, Text):
        said.plain = printable(said.plain, lines=True)  # of the same length: its styles stay where they are
    return printable(said, lines=True) if isinstance(said, str) else said


console = Sayings(stderr=True, highlight=False, soft_wrap=True)
"""For people: progress, warnings, sentences. Data goes to stdout, through `output`."""


def settings_of(context: typer.Context) -> Settings:
    """Return the configuration that a command runs with."""
    found: Globals = context.ensure_object(Globals)
    return found.settings()


def seams() -> Seams:
    """Return the real clock, randomness and, for tests, the point at which to die."""
    return Seams.real()
