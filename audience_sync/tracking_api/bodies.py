"""The body of a request as it arrives, piece by piece: unpacked at once, and never longer than it may be."""

from __future__ import annotations

import zlib
from typing import Final

from audience_sync.tracking_api.refusals import Refusal, invalid

_GZIP: Final = zlib.MAX_WBITS | 16
_GZIP_EXTRA: Final = 1024  # bytes by which gzip may make a body longer that cannot be packed
_PLAIN: Final = ("", "identity")
_PACKED: Final = ("gzip", "x-gzip")


class Body:
    """A body of at most `limit` bytes once it is unpacked; what is beyond is not kept, however small it was packed."""

    def __init__(self, limit: int, *, packed: bool) -> None:
        self._limit = limit
        self._longest = limit + _GZIP_EXTRA * packed  # as it is sent
        self._received = 0
        self._unpack = zlib.decompressobj(_GZIP) if packed else None
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def expect(self, length: int) -> Refusal | None:
        """Refuse a body that says of itself that it is longer than it may be."""
        return _too_long(self._limit) if length > self._longest else None

    def add(self, piece: bytes) -> Refusal | None:
        """Take the next piece as it was sent; refuse what is too long, or no gzip."""
        self._received += len(piece)
        if self._received > self._longest:
            return _too_long(self._limit)
        if self._unpack is None:
            self._data += piece
            return None
        try:
            # One byte more than may be is enough to know; what zlib would still make of the piece is never made.
            self._data += self._unpack.decompress(piece, self._limit + 1 - len(self._data))
        except zlib.error:
            return invalid("the body is no gzip")
        if self._unpack.unused_data:
            return invalid("something follows the gzip of the body")
        return _too_long(self._limit) if len(self._data) > self._limit else None

    def whole(self) -> bytes | Refusal:
        """Return the body, now that all has come; refuse a gzip that breaks off."""
        if self._unpack is not None and not self._unpack.eof:
            return invalid("the gzip of the body breaks off")
        return bytes(self._data)


def open_body(encoding: str | None, *, limit: int) -> Body | Refusal:
    """Return a body to be filled, of a Content-Encoding and at most so many bytes; refuse an encoding but gzip."""
    word = (encoding or "").strip().lower()
    if word not in _PLAIN + _PACKED:
        return Refusal(415, "the body may come as it is or as gzip, not in another Content-Encoding")
    return Body(limit, packed=word in _PACKED)


def _too_long(limit: int) -> Refusal:
    return invalid(f"the body is longer than {limit // 1024} KB, the most that Segment takes")
