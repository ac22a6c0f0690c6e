"""Convert instants to the milliseconds since 1970 in which the database keeps them, and back, exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def to_ms(moment: datetime) -> int:
    """Return an aware instant in whole milliseconds; what is smaller is cut off."""
    return (moment - _EPOCH) // _MILLISECOND


def from_ms(milliseconds: float) -> datetime:
    """Return the instant of some milliseconds, in UTC."""
    return _EPOCH + milliseconds * _MILLISECOND
