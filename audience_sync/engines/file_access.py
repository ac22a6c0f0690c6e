"""Open the files of a source, and tell what they are and whether they are still what they were."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from audience_sync.errors import SourceError

Fingerprint: TypeAlias = tuple[int, int, int] | None
"""Inode, size and time of the last change in nanoseconds; None: the file is gone."""
UNPACKING = (EOFError, gzip.BadGzipFile, zlib.error)
"""Exceptions raised for a file that is not gzip to its end."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_JSON_ENDINGS = (".json", ".ndjson", ".jsonl")


def is_packed(path: str) -> bool:
    """Return whether a file is packed by gzip, by its ending."""
    return path.lower().endswith(".gz")


def is_json(path: str) -> bool:
    """Return whether a file is JSON, by its ending."""
    return path.lower().removesuffix(".gz").endswith(_JSON_ENDINGS)


def is_parquet(path: str) -> bool:
    """Return whether a file is Parquet, by its ending."""
    return path.lower().endswith(".parquet")


def fingerprint(path: str) -> Fingerprint:
    """Return what changes when a file is written to or replaced."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def open_bytes(path: str) -> BinaryIO:
    """Open a file, unpacked if it is packed."""
    return cast("BinaryIO", gzip.open(path)) if is_packed(path) else Path(path).open("rb")


def require_utf_8(path: str) -> None:
    """Refuse a file that says of itself that it is UTF-16.

    Raises:
        SourceError: it does.
    """
    with open_bytes(path) as file:
        if file.read(2) in _UTF_16:
            raise SourceError(f"The file {path} is UTF-16.", hint="save it as UTF-8")


def require_whole(path: str) -> None:
    """Refuse a packed file that is cut off or damaged: DuckDB does not compare the checksum.

    Raises:
        SourceError: it is.
    """
    if is_packed(path):
        with unpacking(path), open_bytes(path) as file:
            while file.read(1 << 20):
                pass


@contextmanager
def unpacking(path: str) -> Iterator[None]:
    """Say which file it is that cannot be unpacked.

    Raises:
        SourceError: it is not a gzip file, or not a whole one.
    """
    try:
        yield
    except UNPACKING:
        hint = "have files written under a temporary name and renamed when they are complete"
        raise SourceError(f"The file {path} is not a complete gzip file.", hint=hint) from None
