"""Progress of long work: a moving line on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.status import Status

from audience_sync.cli.context import console

REDRAW = 0.1  # seconds
LOG_EVERY = 10.0  # seconds


class Progress:
    """Shows how far one piece of work is; a context manager."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._status = Status("", console=console) if console.is_terminal else None
        self._shown_at = time.monotonic()

    def show(self, stage: str, done: int) -> None:
        """Show a stage and how much of it is done."""
        now = time.monotonic()
        if now - self._shown_at < (REDRAW if self._status else LOG_EVERY):
            return
        self._shown_at = now
        units = {"reading": "rows", "comparing": "of 1,024 shards", "delivering": "events", "forwarding": "lines"}[
            stage
        ]
        sentence = f"{self._subject}: {stage}, {done:,} {units}"
        if self._status:
            self._status.update(sentence)
        else:
            console.print(sentence)

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()
