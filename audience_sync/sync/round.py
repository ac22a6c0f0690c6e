"""A round: audiences that are synced one after the other as of one instant, each behind those it uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from audience_sync.config import Audience, Settings
from audience_sync.core.model import from_ms, to_ms
from audience_sync.store import audiences
from audience_sync.store.workspace import Workspace
from audience_sync.sync.prerequisites import is_synced_first


@dataclass(frozen=True)
class Round:
    """The audiences to sync, in this order, and the instant of all of them."""

    audiences: tuple[Audience, ...]
    chosen: frozenset[str]  # keys; the others are synced first because these use them
    as_of: datetime


def make_round(
    workspace: Workspace,
    settings: Settings,
    chosen: Iterable[Audience],
    *,
    as_of: datetime | None = None,
    limited: bool = False,
) -> Round:
    """Return the round in which some audiences are synced: with them what they use, unless that cannot be synced now.

    An audience that is paused or retired brings nothing along.

    Its instant is `as_of` or else the present, though never before what one of them was synced as of. A `limited` sync
    brings along only what was synced with its current definition before.
    """
    wanted = list(chosen)
    keys = frozenset(one.key for one in wanted)
    exact = None if as_of is None else to_ms(as_of)
    with workspace.database.read() as connection:
        rows = {row.key: row for row in audiences.every(connection)}
        active = [one for one in wanted if one.key not in rows or rows[one.key].state == "active"]
        needed = {one.key for one in settings.in_order(active)}
        members = [
            one
            for one in settings.in_order(wanted)
            if one.key in keys or (one.key in needed and is_synced_first(connection, one, as_of=exact, limited=limited))
        ]
    if as_of is None:
        applied = [rows[one.key].applied_as_of or 0 for one in members if one.key in rows]
        latest = max(applied, default=0)
        as_of = max(workspace.seams.clock().astimezone(UTC), from_ms(latest))
    return Round(tuple(members), keys, as_of)


def uses_any(settings: Settings, audience: Audience, keys: Collection[str]) -> str | None:
    """Return the first of some keys that an audience's query uses, directly or not, or None."""
    return next((one.key for one in settings.in_order([audience])[:-1] if one.key in keys), None)
