"""The moments at which requests may be sent: one row for a destination, so that all processes keep one rate."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from audience_sync.store import settings_table
from audience_sync.store.schema import PRIMARY_DESTINATION

MOST_RESERVED = 3_000  # requests: a minute at the default rate
FURTHEST_RESERVED = 600_000_000  # microseconds: at a low rate that many requests would take hours


def reserve_requests(
    connection: Connection, *, now_us: int, requests: int, per_second: float, destination: str = PRIMARY_DESTINATION
) -> int:
    """Reserve the next `requests` moments at the shared rate; return the first, in microseconds since 1970.

    Every process on this database draws from the same row, so the rate is that of all of them together. A clock that
    was ahead costs at most the time of `MOST_RESERVED` requests, and ten minutes: moments further off are taken for a
    mistake.
    """
    spacing = round(1_000_000 / per_second)
    furthest = min(MOST_RESERVED * spacing, max(FURTHEST_RESERVED, requests * spacing))
    name = settings_table.name_of("request_at_us", destination)
    booked = settings_table.count_on(connection, name, least=now_us, step=requests * spacing)
    if booked > now_us + furthest:
        settings_table.put(connection, name, str(now_us + requests * spacing))
        return now_us
    return booked
