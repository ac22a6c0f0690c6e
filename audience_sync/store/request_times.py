"""The moments at which requests may be sent: one row for all processes, so that they keep one rate together."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from audience_sync.store import settings_table

MOST_RESERVED = 3_000  # requests: a minute at the default rate
FURTHEST_RESERVED = 600_000_000  # microseconds: at a low rate that many requests would take hours


def reserve_requests(connection: Connection, *, now_us: int, requests: int, per_second: float) -> int:
    """Reserve the next `requests` moments at the shared rate; return the first, in microseconds since 1970.

    Every process on this database draws from the same row, so the rate is that of all of them together. A clock that
    was ahead costs at most the time of `MOST_RESERVED` requests, and ten minutes: moments further off are taken for a
    mistake.
    """
    spacing = round(1_000_000 / per_second)
    furthest = min(MOST_RESERVED * spacing, max(FURTHEST_RESERVED, requests * spacing))
    booked = settings_table.count_on(connection, "request_at_us", least=now_us, step=requests * spacing)
    if booked > now_us + furthest:
        settings_table.put(connection, "request_at_us", str(now_us + requests * spacing))
        return now_us
    return booked
