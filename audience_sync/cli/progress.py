"""Progress of long work: a moving line on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.cells import cell_len, set_cell_size
from rich.status import Status
from rich.text import Text

from audience_sync.cli.context import console

REDRAW = 0.1  # seconds
LOG_EVERY = 10.0  # seconds
UNITS = {
    "reading": "rows",
    "comparing": "members",
    "writing": "changes",
    "delivering": "events",
    "forwarding": "lines",
}
SPINNER_WIDTH = 3  # cells: the spinner, a blank, and the last column, which stays free


def fitted(subject: str, state: str, width: int) -> str:
    """Return `subject: state` on one line: a moving line that wraps leaves pieces of itself on the terminal.

    The subject is shortened; without space for any of it there is the state alone, without space for that nothing.
    """
    space = width - cell_len(f": {state}")
    if cell_len(subject) <= space:
        return f"{subject}: {state}"
    if space > 4:
        return f"{set_cell_size(subject, space - 1).rstrip()}…: {state}"
    return state if cell_len(state) <= width else ""


class Progress:
    """Shows how far one piece of work is; a context manager."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        is_live = console.is_seen and not console.is_dumb_terminal
        self._status = Status("", console=console) if is_live else None
        self._shown_at = time.monotonic()

    def show(self, stage: str, done: int) -> None:
        """Show a stage and how much of it is done."""
        now = time.monotonic()
        if now - self._shown_at < (REDRAW if self._status else LOG_EVERY):
            return
        self._shown_at = now
        units = UNITS[stage]
        if self._status:
            width = console.terminal_width - SPINNER_WIDTH
            self._status.update(Text(fitted(self._subject, f"{stage}, {done:,} {units}", width)))
        else:
            console.print(Text(f"{self._subject}: {stage}, {done:,} {units}"))

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()
