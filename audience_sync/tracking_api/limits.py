"""How much and how long senders may have of us at once, whoever they are."""

from __future__ import annotations

from typing import Final, NamedTuple

from audience_sync.tracking_api.intake import WAIT

RETRY_AFTER: Final = 5  # seconds after which a sender that was refused for our reasons should come again


class Limits(NamedTuple):
    """Times in seconds, and numbers; tests set them smaller."""

    head: float = 10.0  # until the head of a request is whole
    body: float = 10.0  # from then until its body is
    idle: float = 65.0  # until a connection without a request is closed: longer than proxies keep theirs
    wait: float = WAIT  # for a lock of the database
    drain: float = 4.0  # for requests under way at the end
    connections: int = 500
    held: int = 32 * 1024 * 1024  # bytes of bodies that are not read yet


DEFAULT: Final = Limits()
