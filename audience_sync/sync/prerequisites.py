"""Find the audiences that a query uses, in the file and in the database, and decide whether the audience is held."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.engine import Connection

from audience_sync.config import Audience, Settings
from audience_sync.core.guard import NEEDS_A_PERSON, Decided, Hold, Used, hold, obstacle
from audience_sync.core.model import RunState, from_ms, to_ms
from audience_sync.store import audiences, runs
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.workspace import Workspace


def used_by(connection: Connection, settings: Settings, audience: Audience) -> list[Used]:
    """Return everything that an audience's query uses, directly or not, in dependency order.

    A key that is not in the file is a trait of the profiles, unless the database has an audience with that key.
    """
    if not audience.asks_for:
        return []
    by_key = {one.key: one for one in settings.in_order([audience])[:-1]}
    asked = {*audience.asks_for, *(key for one in by_key.values() for key in one.asks_for)}
    rows = {key: row for key in asked if (row := audiences.find(connection, key)) is not None}
    missing = [_removed(row) for key, row in sorted(rows.items()) if key not in by_key]
    through = {key: one for one in _direct(settings, audience) for key in _keys(settings, one)}
    return [
        *missing,
        *(
            _used(connection, one, rows.get(key), through=None if key in audience.asks_for else through[key].key)
            for key, one in by_key.items()
        ),
    ]


def hold_of(connection: Connection, settings: Settings, audience: Audience, *, as_of: int | None) -> Hold | None:
    """Return why an audience is not evaluated as of an instant, or None; without `as_of`, for any instant."""
    return hold(audience.key, used_by(connection, settings, audience), as_of=as_of)


def standing_hold(connection: Connection, settings: Settings, audience: Audience) -> Hold | None:
    """Return why a sync of an audience would be held now, according to the database, or None.

    A sync first syncs used audiences, so an obstacle that this may remove counts only if it held the last run.
    """
    found = hold_of(connection, settings, audience, as_of=None)
    if found is None or found.obstacle in NEEDS_A_PERSON:
        return found
    row = audiences.find(connection, audience.key)
    return found if row is not None and runs.in_state(connection, row.id, RunState.HELD) else None


def is_synced_first(connection: Connection, audience: Audience, *, as_of: int | None, limited: bool) -> bool:
    """Return whether a sync of a dependent audience syncs this one first.

    Not where a person must act before. A plan that waits for an approval stays. Not where it was accepted as of the
    wanted instant already. A sync that is limited on purpose makes no first sync, and none of an edited definition.
    """
    row = audiences.find(connection, audience.key)
    used = _used(connection, audience, row, through=None)
    found = obstacle(used, as_of=as_of)
    if found in NEEDS_A_PERSON or (found is None and as_of is not None):
        return False
    return not limited or (used.completed and used.is_current)


def _direct(settings: Settings, audience: Audience) -> Iterator[Audience]:
    return (one for one in settings.audiences if one.key in audience.asks_for)


def _keys(settings: Settings, audience: Audience) -> Iterator[str]:
    return (one.key for one in settings.in_order([audience]))


def _removed(row: AudienceRow) -> Used:
    return Used(
        key=row.key,
        computation=row.computation,
        audience_id=row.id,
        state=row.state,
        in_file=False,
        enabled=False,
        decided=None,
        completed=row.completed,
        is_current=False,
        accepted_as_of=row.applied_as_of,
    )


def _used(connection: Connection, audience: Audience, row: AudienceRow | None, *, through: str | None) -> Used:
    run = None if row is None else runs.newest_decided(connection, row.id)
    decided = None
    if run is not None:
        is_current = run.definition_hash == audience.definition_hash
        decided = Decided(run.id, run.state, is_current, run.partial, run.reason)
    return Used(
        key=audience.key,
        computation=audience.computation,
        through=through,
        audience_id=None if row is None else row.id,
        state="active" if row is None else row.state,
        in_file=True,
        enabled=audience.enabled,
        decided=decided,
        completed=row is not None and row.completed,
        is_current=row is not None and row.definition_hash == audience.definition_hash,
        accepted_as_of=None if row is None else row.applied_as_of,
    )


# --- rounds -----------------------------------------------------------------------------------------------------------
# A round: audiences that are synced one after the other as of one instant, each behind those it uses.


@dataclass(frozen=True)
class Round:
    """The audiences to sync, in this order, and their common instant."""

    audiences: tuple[Audience, ...]
    chosen: frozenset[str]  # keys; the others are synced first because these depend on them
    as_of: datetime


def make_round(
    workspace: Workspace,
    settings: Settings,
    chosen: Iterable[Audience],
    *,
    as_of: datetime | None = None,
    limited: bool = False,
) -> Round:
    """Return the round that syncs some audiences with those they use, unless these cannot be synced now.

    A paused or retired audience does not add the audiences it uses.

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
        as_of = max(workspace.clock.now().astimezone(UTC), from_ms(latest))
    return Round(tuple(members), keys, as_of)


def uses_any(settings: Settings, audience: Audience, keys: Collection[str]) -> str | None:
    """Return the first of some keys that an audience's query uses, directly or not, or None."""
    return next((one.key for one in settings.in_order([audience])[:-1] if one.key in keys), None)
