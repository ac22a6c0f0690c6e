"""Format lines for journald with their priority, so that `journalctl -p warning` shows what needs attention."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, TextIO

STREAM_VARIABLE: Final = "JOURNAL_STREAM"
"""Device and inode of the stream that systemd connected to the journal; see systemd.exec(5)."""

PRIORITIES: Final[Mapping[str, int]] = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""The syslog priority of each level."""


def is_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether what is written to a stream goes to journald; the variable alone may be a parent's."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file at all
        return False
    return environ.get(STREAM_VARIABLE) == f"{status.st_dev}:{status.st_ino}"


def with_priority(text: str, level: str) -> str:
    """Return a text with its priority at the beginning of every line."""
    mark = f"<{PRIORITIES.get(level, PRIORITIES['info'])}>"
    return "\n".join(mark + line for line in text.split("\n"))
