"""The rows of a source by shard: in memory while they are few, in a temporary file when they are many.

What stays in memory is bounded: at most `IN_MEMORY` lines and, for each flush, where the lines of each shard lie.
"""

from __future__ import annotations

import os
import tempfile
from types import TracebackType
from typing import Self

from audience_sync.core.shards import SHARDS

IN_MEMORY = 200_000  # lines; of keys of 12 characters about 15 MB
VALUES_IN_MEMORY = 50_000  # lines with a value, which may be 1,024 characters long


class Spool:
    """Lines filed by shard; `lines[shard]` is where a page of rows is added."""

    def __init__(self, *, in_memory: int = IN_MEMORY) -> None:
        self.lines: list[list[str]] = [[] for _ in range(SHARDS)]
        self._in_memory = in_memory
        self._waiting = 0
        self._file = tempfile.TemporaryFile(prefix="audience-sync-")  # noqa: SIM115 - closed with the spool
        self._end = 0
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(SHARDS)]

    def added(self, rows: int) -> None:
        """Count the lines added since the last call; write them out when they are many."""
        self._waiting += rows
        if self._waiting >= self._in_memory:
            self._flush()

    def take(self, shard: int) -> list[str]:
        """Return the lines of a shard, from memory and file."""
        found = self.lines[shard]
        for offset, length in self._places[shard]:
            found = found + os.pread(self._file.fileno(), length, offset).decode().split("\n")
        return found

    def _flush(self) -> None:
        for shard, lines in enumerate(self.lines):
            if lines:
                text = "\n".join(lines).encode()
                self._file.write(text)
                self._places[shard].append((self._end, len(text)))
                self._end += len(text)
                lines.clear()
        self._file.flush()
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
