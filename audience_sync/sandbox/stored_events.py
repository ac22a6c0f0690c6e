"""Events as the ledger keeps them, and how to ask for some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from audience_sync.core.model import Json


class StoredEvent(NamedTuple):
    """One row of `events`; `duplicate` ones were dropped before they were processed."""

    id: int
    received_at: str
    environment_id: str
    type: str
    subtype: str | None
    idempotency_key: str | None
    status: str
    error_message: str | None
    user_id: int | None
    company_id: int | None
    body: Mapping[str, Json]
    sent_at: str | None
    request_id: int


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events are meant: all that fit every setting that is not None."""

    idempotency_key: str | None = None
    types: Sequence[str] | None = None
    statuses: Sequence[str] | None = None
    subtype: str | None = None
    user_id: int | None = None
    company_id: int | None = None

    def where(self) -> tuple[str, list[str | int]]:
        """Return the SQL condition and its parameters."""
        parts, values = ["1"], list[str | int]()
        for column in ("idempotency_key", "subtype", "user_id", "company_id"):
            wanted = getattr(self, column)
            if wanted is not None:
                parts.append(f"{column} = ?")
                values.append(wanted)
        for column, several in (("type", self.types), ("status", self.statuses)):
            if several is not None:
                parts.append(f"{column} IN ({', '.join('?' * len(several))})")
                values.extend(several)
        return " AND ".join(parts), values
