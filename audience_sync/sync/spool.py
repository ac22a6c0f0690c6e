"""The rows of a source by shard: in memory while they are few, in a temporary file when they are many.

What stays in memory is bounded: at most `IN_MEMORY` lines and, for each flush, where the lines of each shard lie. Each
shard is hashed as it comes, so that one whose rows came before, in the same order, need not be looked at again.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b
from types import TracebackType
from typing import NamedTuple, Self

from audience_sync.core.rows import Wrapping, wrapped
from audience_sync.core.shards import SHARDS
from audience_sync.errors import AudienceSyncError
from audience_sync.folders import require_temporary_folder

IN_MEMORY = 200_000  # lines; of keys of 12 characters about 15 MB
VALUES_IN_MEMORY = 50_000  # lines with a value, which may be 1,024 characters long
_RULES = b"2"
"""Change this when the same rows may become other members (`rows.distinct`): no shard is then skipped unread."""


class Reading(NamedTuple):
    """The number of lines read for a shard, and a 128-bit hash of them in the order of reading."""

    lines: int
    hash: bytes


class Spool:
    """Lines filed by shard; `lines[shard]` is where a page of rows is added, bare where there is a `wrapping`."""

    def __init__(self, *, in_memory: int = IN_MEMORY) -> None:
        self.lines: list[list[str]] = [[] for _ in range(SHARDS)]
        self.wrapping: Wrapping | None = None
        self.size = 0  # rows
        self._in_memory = in_memory
        self._waiting = 0
        require_temporary_folder(os.environ)
        self._file = tempfile.TemporaryFile(prefix="audience-sync-")  # noqa: SIM115 - closed with the spool
        self._end = 0
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(SHARDS)]
        self._flushed = [0] * SHARDS  # lines
        self._hashes: list[blake2b] = []

    def added(self, rows: int) -> None:
        """Count the rows filed since the last call; write their lines out when they are many.

        Raises:
            AudienceSyncError: the temporary folder is full.
        """
        self.size += rows
        self._waiting += rows
        if self._waiting >= self._in_memory:
            try:
                self._flush()
            except OSError as error:
                raise AudienceSyncError(
                    f"cannot keep the rows of the source in {tempfile.gettempdir()}: {error.strerror}",
                    hint="nothing was changed: free space there, or set TMPDIR to a folder with more",
                ) from None

    def reading(self, shard: int) -> Reading:
        """Return what was read of a shard; the same where the same lines came in the same order."""
        lines = self.lines[shard]
        if not self._hashes and not lines:
            return self._nothing
        found = self._hashes[shard].copy() if self._hashes else self._new_hash()
        found.update(_text(lines))
        return Reading(self._flushed[shard] + len(lines), found.digest())

    def take(self, shard: int) -> list[str]:
        """Return the lines of a shard, from memory and file."""
        if not self._flushed[shard] and not self.lines[shard]:
            return []
        number = self._file.fileno()
        parts = [os.pread(number, length, offset) for offset, length in self._places[shard]]
        text = b"".join([*parts, _text(self.lines[shard])]).decode()
        return wrapped(text[:-1], self.wrapping) if text else []

    def _flush(self) -> None:
        """Write all lines in one piece: those of a shard lie together."""
        self._hashes = self._hashes or [self._new_hash() for _ in range(SHARDS)]
        texts = []
        for shard, lines in enumerate(self.lines):
            if lines:
                text = _text(lines)
                texts.append(text)
                self._hashes[shard].update(text)
                self._places[shard].append((self._end, len(text)))
                self._end += len(text)
                self._flushed[shard] += len(lines)
                lines.clear()
        self._file.write(b"".join(texts))
        self._file.flush()
        self._waiting = 0

    @cached_property
    def _nothing(self) -> Reading:
        """The reading of a shard without rows; the `wrapping` is known by the time it is asked for."""
        return Reading(0, self._new_hash().digest())

    def _new_hash(self) -> blake2b:
        """Return a hash that begins with what is around each bare line: other keys of Schematic, other members."""
        return blake2b("".join(self.wrapping or ()).encode(), digest_size=16, person=_RULES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what could not be written on a full disk is not written now either
            self._file.close()


def _text(lines: list[str]) -> bytes:
    """Return lines as bytes, each with its end."""
    return "\n".join([*lines, ""]).encode()
