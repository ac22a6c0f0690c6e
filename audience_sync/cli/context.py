"""Share the configuration and the consoles among commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import typer
from rich.console import Console
from rich.text import Text

from audience_sync.cli.main import Globals
from audience_sync.cli.text_table import wrap
from audience_sync.clock import Clock
from audience_sync.config import Settings
from audience_sync.core.text import printable
from audience_sync.journal import is_journal, with_priority

DEFAULT_WIDTH: Final = 80
"""Columns of a terminal that does not say how many it has."""

UNLIMITED: Final = sys.maxsize
"""Columns where there is no terminal: lines are not wrapped."""
_LEVELS: Final = {
    "error:": "error",
    "warning:": "warning",
    "blocked:": "warning",
    "held:": "warning",
    "orphan:": "warning",
    "hint:": "warning",
}
"""The level of a sentence under journald, by its first word."""


class MessageConsole(Console):
    """A console for messages that can contain text from others: removes control characters.

    Wraps messages at words on a terminal, and does not wrap them elsewhere.
    """

    @property
    def is_seen(self) -> bool:
        """Return whether this is a terminal; `is_terminal` is also true if FORCE_COLOR is set."""
        return self.file.isatty()

    @property
    def terminal_width(self) -> int:
        """Return the columns of the terminal: from COLUMNS, else from the terminal, else 80."""
        columns = os.environ.get("COLUMNS", "")
        if columns.isdecimal() and int(columns) > 0:
            return int(columns)
        try:
            return os.get_terminal_size(self.file.fileno()).columns or DEFAULT_WIDTH
        except (OSError, ValueError):  # not a terminal, or without a file descriptor
            return DEFAULT_WIDTH

    @property
    def line_width(self) -> int:
        """Return the width for wrapping lines: that of the terminal, and practically unlimited elsewhere."""
        return self.terminal_width if self.is_seen else UNLIMITED

    def print(self, *objects: object, hang: int = 0, **options: Any) -> None:
        """Print as a console does; continuation lines are indented by `hang`.

        Under journald, each line begins with its priority.
        """
        prepared = [self._prepared(one, hang, options) for one in objects]
        if not is_journal(sys.stderr) or not self.stderr:
            super().print(*prepared, **options)
            return
        with self.capture() as captured:
            super().print(*prepared, **options)
        text = captured.get().removesuffix("\n")
        self.file.write(with_priority(text, _LEVELS.get(text.partition(" ")[0], "info")) + "\n")
        self.file.flush()

    def print_lines(self, lines: Iterable[Text]) -> None:
        """Print lines that already have their layout."""
        for line in lines:
            super().print(line)

    def _prepared(self, said: object, hang: int, options: dict[str, Any]) -> object:
        if isinstance(said, str):
            said = self.render_str(printable(said, lines=True), markup=options.get("markup", True), highlight=False)
        if not isinstance(said, Text):
            return said
        said = said.copy()
        said.plain = printable(said.plain, lines=True)  # of the same length, so that styles keep their positions
        if not self.is_seen:
            return said
        said.expand_tabs(8)
        width = self.line_width
        return Text("\n").join(
            [line for part in said.split("\n", allow_blank=True) for line in wrap(part, width, hang=hang)]
        )


console = MessageConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""For people: progress, warnings, sentences. Data goes to stdout, through `console`."""

out = MessageConsole(highlight=False, soft_wrap=True, emoji=False)
"""Sentences that are the data of a command, on stdout."""


def settings_of(context: typer.Context) -> Settings:
    """Return the configuration of a command."""
    found: Globals = context.ensure_object(Globals)
    return found.settings()


def clock() -> Clock:
    """Return the real clock and randomness and, for tests, the point at which to die."""
    return Clock()
