"""Batches: events taken from `outbox` or `events`, claimed, sent unchanged, and recorded as one row.

A batch is open until Schematic has accepted it. Its claim (a holder, an expiry and a number that increases whenever it
changes hands) is the right to post it. Every write checks the number, so a process that lost its claim changes
nothing. When a batch is split, the first part keeps its identity, and the other parts refer to it as their origin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Final, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import shard_of
from audience_sync.core.model import EXIT_VALUES
from audience_sync.destinations.rendered_events import BatchContents, RenderedEvent, quoted
from audience_sync.errors import LeaseLost
from audience_sync.store import bulk, events, generations, identifiers, leases, outbox, runs, schema
from audience_sync.store.schema import PRIMARY_DESTINATION

MOST_CLAIMED: Final = 20  # batches that a process takes over at once: others may want some, too

_COLUMNS: Final = "id, claim, events, tries, not_before, error, origin, part, exits, destination"
_MINE: Final = "id = :id AND claim = :claim AND status = 'open'"
_CLAIM: Final = sa.text("UPDATE batches SET holder = :h, claim = claim + 1, claim_until = :until WHERE id = :i")
_CONTAINS: Final = {"sqlite": "instr({1}, {0}) > 0", "postgresql": "position({0} IN {1}) > 0"}


@dataclass(frozen=True)
class Batch:
    """An open batch as its holder has it; times in milliseconds since 1970."""

    id: int
    claim: int
    contents: BatchContents
    tries: int = 0  # answers that asked for another try, or were lost
    not_before: int = 0
    error: str | None = None
    origin: int | None = None  # the batch that it was cut from, or is the first part of
    part: int = 0  # the place of its first event in the batch it was cut from
    exits: bool = False  # it has some, or updates that give up a user identifier
    destination: str = PRIMARY_DESTINATION

    @property
    def size(self) -> int:
        """Return how many events it has."""
        return self.contents.size

    @property
    def events(self) -> tuple[RenderedEvent, ...]:
        """Return its events one by one: as a rule nobody has to look at them."""
        return self.contents.events


class Taking(NamedTuple):
    """Facts about the open batches of a destination that a process needs before it takes rows."""

    held: dict[bool, set[str]]  # profiles: of changes (False), and of forwarded events (True)
    stuck: set[str]  # profiles of lone changes that wait for as long as any may
    has_exits: bool  # exits are under way, those of stuck profiles excepted


def lock_taking(connection: Connection, *, stuck_tries: int, destination: str = PRIMARY_DESTINATION) -> Taking:
    """Lock taking for a destination until this transaction ends, and return the state of its open batches."""
    identifiers.block_taking(connection, destination=destination)
    taking = Taking({False: set(), True: set()}, set(), has_exits=False)
    rows = connection.execute(
        sa.text("SELECT forwarded, exits, size, tries, keys FROM batches WHERE status = 'open' AND destination = :d"),
        {"d": destination},
    )
    for forwarded, exits, size, tries, keys in rows:
        profiles = orjson.loads(keys)
        taking.held[bool(forwarded)].update(profiles)
        if size == 1 and tries >= stuck_tries and not forwarded:
            taking.stuck.update(profiles)
        elif exits:
            taking = taking._replace(has_exits=True)
    return taking


def add(
    connection: Connection,
    batches: Iterable[BatchContents],
    *,
    holder: str,
    claim_until: int,
    now_ms: int,
    exits: bool = False,
    destination: str = PRIMARY_DESTINATION,
) -> list[Batch]:
    """Keep batches before their first POST, claimed. Neighbours that share a profile become parts of one batch.

    With `exits` all their events go before everything else; without, those are found by their values.
    """
    added: list[Batch] = []
    for contents in batches:
        goes_first = exits or not contents.values.isdisjoint(EXIT_VALUES)
        batch = Batch(0, 1, contents, exits=goes_first, destination=destination)
        before = added[-1] if added else None
        if before is not None and before.contents.profile_keys[-1] == contents.profile_keys[0]:
            if before.origin is None:
                before = added[-1] = replace(before, origin=before.id)
                connection.execute(sa.text("UPDATE batches SET origin = id WHERE id = :i"), {"i": before.id})
            batch = replace(batch, origin=before.origin, part=before.part + before.size)
        added.append(_insert(connection, batch, holder=holder, claim_until=claim_until, now_ms=now_ms))
    return added


def _insert(connection: Connection, batch: Batch, *, holder: str, claim_until: int, now_ms: int) -> Batch:
    found = connection.execute(
        _INSERT,
        {
            **_content(batch.contents),
            "destination": batch.destination,
            "forwarded": batch.contents.is_forwarded,
            "exits": batch.exits,
            "holder": holder,
            "claim": batch.claim,
            "until": claim_until,
            "origin": batch.origin,
            "part": batch.part,
            "now": now_ms,
        },
    )
    return replace(batch, id=found.scalar_one())


_INSERT: Final = sa.text(
    "INSERT INTO batches (destination, forwarded, holder, claim, claim_until, origin, part, created_at, shards, exits,"
    " size, keys, events) VALUES (:destination, :forwarded, :holder, :claim, :until, :origin, :part, :now, :shards,"
    " :exits, :n, :keys, :events) RETURNING id"
)


def _content(contents: BatchContents) -> dict[str, object]:
    return {
        "shards": _spaced(map(shard_of, contents.profile_keys)),
        "n": contents.size,
        "keys": orjson.dumps(list(dict.fromkeys(contents.profile_keys))).decode(),
        "events": contents.dump(),
    }


def _spaced(shards: Iterable[int]) -> str:
    """Return shards as a batch keeps them: each between two spaces."""
    return f" {' '.join(map(str, sorted(set(shards))))} "


def _batch(row: sa.Row[tuple[object, ...]]) -> Batch:
    return Batch(row.id, row.claim, BatchContents.parse(row.events), *row[3:])


# --- claims -----------------------------------------------------------------------------------------------------------


def claim_free(
    connection: Connection,
    *,
    holder: str,
    dead: Iterable[str],
    now_ms: int,
    claim_until: int,
    forwarded: bool,
    destination: str = PRIMARY_DESTINATION,
) -> list[Batch]:
    """Claim at most `MOST_CLAIMED` open batches for a destination: unclaimed, expired or held by a dead process.

    Without `forwarded` those of Segment events are left alone. The times are of the clock of leases.
    """
    kind = "" if forwarded else " AND NOT forwarded"
    lock = "" if connection.dialect.name == "sqlite" else " FOR UPDATE SKIP LOCKED"
    rows = connection.execute(
        sa.text(
            f"SELECT {_COLUMNS} FROM batches WHERE status = 'open' AND destination = :d{kind}"
            f" AND (claim_until <= :now OR claim_until > :far OR holder IN ({bulk.each(connection, 'dead')}))"
            f" ORDER BY id LIMIT :n{lock}"
        ),
        {
            "d": destination,
            "now": now_ms,
            "far": now_ms + leases.LONGEST_MS,
            "dead": bulk.texts(connection, dead),
            "n": MOST_CLAIMED,
        },
    ).all()
    found = [_batch(row) for row in rows]
    for batch in found:
        connection.execute(_CLAIM, {"h": holder, "until": claim_until, "i": batch.id})
    return [replace(batch, claim=batch.claim + 1) for batch in found]


def renew(connection: Connection, holder: str, ids: Iterable[int], *, claim_until: int) -> dict[int, int]:
    """Extend a holder's claims on some batches; return the claim numbers by id, of those that it still has.

    A batch that the holder does not know of, because the answer to a commit was lost, is left to run out.
    """
    mine = f"holder = :h AND status = 'open' AND id IN ({_listed(ids)})"
    _lock(connection, mine, {"h": holder})
    rows = connection.execute(
        sa.text(f"UPDATE batches SET claim_until = :until WHERE {mine} RETURNING id, claim"),
        {"until": claim_until, "h": holder},
    )
    return {row.id: row.claim for row in rows}


def _lock(connection: Connection, where: str, parameters: dict[str, object]) -> None:
    """Lock batches in the one order in which all transactions lock several."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.text(f"SELECT 1 FROM batches WHERE {where} ORDER BY id FOR UPDATE"), parameters)


def _listed(ids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(ids))) or "0"


def release(connection: Connection, holder: str, *, but: Iterable[int] = (), destination: str | None = None) -> None:
    """Release a holder's claims, or those for one destination, except on batches with a request in flight."""
    where = "" if destination is None else " AND destination = :d"
    mine = f"holder = :h AND status = 'open'{where} AND id NOT IN ({_listed(but)})"
    parameters: dict[str, object] = {"h": holder, "d": destination}
    _lock(connection, mine, parameters)
    connection.execute(sa.text(f"UPDATE batches SET holder = '', claim_until = 0 WHERE {mine}"), parameters)


def holders(connection: Connection) -> dict[str, tuple[int, int]]:
    """Return who holds open batches: how many, and until when at most, by the clock of leases."""
    rows = connection.execute(
        sa.text(
            "SELECT holder, count(*) AS n, max(claim_until) AS until FROM batches"
            " WHERE status = 'open' AND holder <> '' GROUP BY holder ORDER BY holder"
        )
    )
    return {row.holder: (row.n, row.until) for row in rows}


def vacate(connection: Connection, dead: Iterable[str]) -> None:
    """Clear the names of holders that have died from what they held."""
    for holder in sorted(dead):
        release(connection, holder)


def is_behind(connection: Connection, batch: Batch) -> bool:
    """Return whether a lower part of the same batch with an event of the same profile is open, whoever holds it."""
    if batch.origin is None:
        return False
    mine = {event.profile_key for event in batch.events}
    rows = connection.execute(
        sa.text("SELECT keys FROM batches WHERE origin = :o AND part < :p AND status = 'open'"),
        {"o": batch.origin, "p": batch.part},
    )
    return any(not mine.isdisjoint(orjson.loads(keys)) for (keys,) in rows)


# --- outcomes ---------------------------------------------------------------------------------------------------------


def settle(connection: Connection, accepted: Sequence[tuple[Batch, int]], *, now_ms: int) -> list[Batch]:
    """Record batches that their destination accepted with a status; return those whose claim is gone, unchanged.

    Members who share an identifier with an accepted exit are sent again.
    """
    rows = [(batch.id, batch.claim, status, batch.contents.summary()) for batch, status in accepted]
    c = schema.batches.columns
    _lock(connection, f"id IN ({_listed(batch.id for batch, _ in accepted)})", {})
    done = connection.execute(
        sa.text(
            "UPDATE batches SET status = 'accepted', events = given.events, accepted_at = :now,"
            " http_status = given.http_status, holder = '', error = NULL"
            f" FROM ({bulk.table(connection, 'rows', (c.id, c.claim, c.http_status, c.events))}) AS given"
            " WHERE batches.id = given.id AND batches.claim = given.claim AND batches.status = 'open'"
            " RETURNING batches.id"
        ),
        {"rows": bulk.given(rows), "now": now_ms},
    )
    still_held = set(done.scalars())
    settled = [batch for batch, _ in accepted if batch.id in still_held]
    lost = [batch for batch, _ in accepted if batch.id not in still_held]
    exits = [event for batch in settled if batch.exits for event in batch.events]
    identifiers.resend_sharers(connection, exits, now_ms=now_ms)
    for batch in settled:
        if batch.destination != PRIMARY_DESTINATION and (gone := batch.contents.deleted):
            _leave_out(connection, batch, gone)
        if batch.contents.is_shared:
            shared = [event for event in batch.events if event.origin and event.origin.shared]
            events.add_accepted(connection, shared, destination=batch.destination)
    runs.add_sent(connection, _sent(connection, settled))  # last: syncs lock their run after rows of the outbox
    return lost


def _leave_out(connection: Connection, batch: Batch, profile_keys: set[str]) -> None:
    """Take people out of an accepted batch: their destination knows that they were deleted."""
    left = batch.contents.without(profile_keys)
    if not left.groups:
        connection.execute(sa.text("DELETE FROM batches WHERE id = :i"), {"i": batch.id})
        return
    connection.execute(
        sa.text("UPDATE batches SET shards = :shards, size = :n, keys = :keys, events = :events WHERE id = :i"),
        {**_content(left), "events": left.summary(), "i": batch.id},
    )


def _sent(connection: Connection, settled: Iterable[Batch]) -> Counter[int]:
    """Return how many values of each run are accepted now: one that others carry, or that is dead, is not yet."""
    sent: Counter[int] = Counter()
    for batch in settled:
        shared: dict[tuple[str, int, int], int] = {}
        for carried, _, people in batch.contents.groups:
            for audience_id, generation, run_id, *_, is_shared in carried:
                if is_shared:
                    shared |= {(person[0], audience_id, generation): run_id for person in people}
                else:
                    sent[run_id] += len(people)
        if shared:
            left = _in_outbox(connection, shared) | _in_parts(connection, batch)
            sent.update(run_id for value, run_id in shared.items() if value not in left)
    return sent


def _in_outbox(connection: Connection, values: Iterable[tuple[str, int, int]]) -> set[tuple[str, int, int]]:
    """Return which values (profile, audience, generation) are in the outbox, too: a mapping rejected a part of them."""
    c = schema.outbox.columns
    given = bulk.table(connection, "given", (c.profile_key, c.audience_id, c.generation))
    rows = connection.execute(
        sa.text(
            f"SELECT o.profile_key, o.audience_id, o.generation FROM ({given}) AS g JOIN outbox o"
            " ON o.profile_key = g.profile_key AND o.audience_id = g.audience_id AND o.generation = g.generation"
        ),
        {"given": bulk.given(values)},
    )
    return {(row.profile_key, row.audience_id, row.generation) for row in rows}


def _in_parts(connection: Connection, batch: Batch) -> set[tuple[str, int, int]]:
    """Return the values (profile, audience, generation) in open batches that were cut from the same as this one."""
    if batch.origin is None:
        return set()
    rows = connection.execute(
        sa.text("SELECT events FROM batches WHERE origin = :o AND status = 'open'"), {"o": batch.origin}
    )
    return {
        (person[0], change[0], change[1])
        for (text,) in rows
        for carried, _, people in orjson.loads(text)
        for change in carried
        for person in people
    }


def postpone(connection: Connection, batch: Batch, *, not_before: int, error: str) -> Batch:
    """Keep that a try failed, and when the next one is due.

    Raises:
        LeaseLost: the claim is gone.
    """
    _assert_done(
        connection.execute(
            sa.text(f"UPDATE batches SET tries = tries + 1, not_before = :t, error = :e WHERE {_MINE}"),
            {"t": not_before, "e": error, "id": batch.id, "claim": batch.claim},
        )
    )
    return replace(batch, tries=batch.tries + 1, not_before=not_before, error=error)


def cut(
    connection: Connection,
    batch: Batch,
    parts: Sequence[Sequence[RenderedEvent]],
    *,
    holder: str,
    claim_until: int,
    now_ms: int,
) -> list[Batch]:
    """Cut a batch into parts, whose tries begin anew. Events that replace the batch's own all keep its part number.

    Raises:
        LeaseLost: the claim is gone.
    """
    origin = batch.id if batch.origin is None else batch.origin
    is_whole = sum(map(len, parts)) == batch.size
    whole = replace(batch, tries=0, not_before=0, error=None, origin=origin)
    first = replace(whole, contents=BatchContents.of(parts[0]))
    _assert_done(
        connection.execute(
            sa.text(
                "UPDATE batches SET origin = :origin, shards = :shards, size = :n,"
                f" keys = :keys, events = :events, tries = 0, not_before = 0, error = NULL WHERE {_MINE}"
            ),
            {**_content(first.contents), "origin": origin, "id": batch.id, "claim": batch.claim},
        )
    )
    found = [first]
    place = batch.part
    for before, part in pairwise(parts):
        place += len(before) if is_whole else 0
        made = replace(whole, id=0, claim=1, contents=BatchContents.of(part), part=place)
        found.append(_insert(connection, made, holder=holder, claim_until=claim_until, now_ms=now_ms))
    return found


def refuse(connection: Connection, batch: Batch, reason: str, *, now_ms: int) -> None:
    """Put what a refused batch carries back as dead, unless a newer value is there, and drop the batch.

    An earlier try, whose answer was lost, may have been accepted: members who share an identifier with an exit of the
    batch are sent again.

    Raises:
        LeaseLost: the claim is gone.
    """
    _drop(connection, batch)
    for event in batch.events:
        if event.origin is None:
            outbox.put_back_dead(connection, event, reason)
        else:
            row = event.origin.row
            accepted = row.accepted | _accepted_parts(connection, batch, row.message_id)
            origin = event.origin._replace(row=row._replace(accepted=accepted))
            events.put_back_dead(connection, origin, reason, destination=batch.destination)
    identifiers.resend_sharers(connection, batch.events, now_ms=now_ms)


def _drop(connection: Connection, batch: Batch) -> None:
    _assert_done(
        connection.execute(sa.text(f"DELETE FROM batches WHERE {_MINE}"), {"id": batch.id, "claim": batch.claim})
    )


def _accepted_parts(connection: Connection, batch: Batch, message_id: str) -> set[str]:
    """Return the keys of bodies of a forwarded event that were accepted in other parts of its batch."""
    rows = connection.execute(
        sa.text("SELECT events FROM batches WHERE origin = :o AND status <> 'open'"), {"o": batch.origin}
    )
    return {key for (text,) in rows for *_, people in orjson.loads(text) for _, key, its in people if its == message_id}


def reopen(connection: Connection, lost: Iterable[Batch], *, now_ms: int) -> None:
    """Have current values sent again: these batches were posted without a claim, so they may have overtaken newer ones.

    Only profiles that the batch, or the parts that it was cut into, still names: others were forgotten. Forwarded
    events have no other value: whoever has the claim sends them again, under the same keys.
    """
    events: list[RenderedEvent] = []
    for batch in lost:
        rows = connection.execute(
            sa.text("SELECT keys FROM batches WHERE id = :i OR origin = :o"),
            {"i": batch.id, "o": batch.id if batch.origin is None else batch.origin},
        )
        named = {key for (keys,) in rows for key in orjson.loads(keys)}
        events += [event for event in batch.events if event.origin is None and event.profile_key in named]
    if events:
        outbox.reopen(connection, events, generation=generations.next_generation(connection, now_ms))


def _assert_done(result: sa.CursorResult[tuple[object, ...]]) -> None:
    if not result.rowcount:
        raise LeaseLost


def drop_forwarded(connection: Connection, *, reason: str) -> int:
    """Make every forwarded event of an open batch a dead row again; return how many."""
    rows = connection.execute(
        sa.text(f"SELECT {_COLUMNS} FROM batches WHERE status = 'open' AND forwarded AND destination = :d ORDER BY id"),
        {"d": PRIMARY_DESTINATION},
    ).all()
    batches = [_batch(row) for row in rows]
    found = {e.origin.row.position: e.origin for batch in batches for e in batch.events if e.origin is not None}
    for origin in found.values():
        events.put_back_dead(connection, origin, reason)
    for batch in batches:
        _drop(connection, batch)
    return len(found)


# --- people -----------------------------------------------------------------------------------------------------------


def about(connection: Connection) -> str:
    """Return the condition of the batches that name the profile of the parameters of `about_parameters`."""
    has = _CONTAINS[connection.dialect.name].format
    # First the shards: SQLite has them all in an index, and reads no more of most batches.
    return f"id IN (SELECT id FROM batches WHERE {has(':shard', 'shards')}) AND {has(':q', 'keys')}"


def about_parameters(profile_key: str) -> dict[str, object]:
    """Return the parameters of `about`."""
    return {"shard": _spaced([shard_of(profile_key)]), "q": quoted(profile_key)}


def accepted_of(connection: Connection, profile_key: str, *, at_most: int | None) -> list[dict[str, object]]:
    """Return what Schematic accepted of a profile, newest first, with the fields of `deliveries`."""
    limit = "" if at_most is None else f" LIMIT {at_most:d}"
    rows = connection.execute(
        sa.text(
            "SELECT accepted_at, http_status, events FROM batches"
            f" WHERE status <> 'open' AND destination = :d AND {about(connection)}"
            f" ORDER BY accepted_at DESC, id DESC{limit}"
        ),
        {**about_parameters(profile_key), "d": PRIMARY_DESTINATION},
    )
    return [
        {
            "accepted_at": accepted_at,
            "traits": traits,
            "run_ids": run_ids,
            "status": status,
            "mapping": mapping,
            "idempotency_key": key,
            "message_id": message_id,
        }
        for accepted_at, status, text in rows
        for traits, run_ids, mapping, people in orjson.loads(text)
        for profile, key, message_id in people
        if profile == profile_key
    ]


def open_events_of(connection: Connection, profile_key: str) -> list[RenderedEvent]:
    """Return the events of a profile for the primary destination that are in open batches."""
    rows = connection.execute(
        sa.text(f"SELECT events FROM batches WHERE status = 'open' AND destination = :d AND {about(connection)}"),
        {**about_parameters(profile_key), "d": PRIMARY_DESTINATION},
    )
    return [event for (text,) in rows for event in BatchContents.parse(text).events if event.profile_key == profile_key]


def seize(connection: Connection, profile_key: str, *, holder: str, now_ms: int, claim_until: int) -> int:
    """Take the claims that others have on open batches with a profile; return when the last of these would have ended.

    Until then a request of theirs may be under way. The times are of the clock of leases; 0 where nobody else has one.
    """
    theirs = f"status = 'open' AND holder <> :h AND {about(connection)}"
    parameters = {**about_parameters(profile_key), "h": holder}
    _lock(connection, theirs, parameters)
    rows = connection.execute(sa.text(f"SELECT id, claim_until FROM batches WHERE {theirs}"), parameters).all()
    for row in rows:
        connection.execute(_CLAIM, {"h": holder, "until": claim_until, "i": row.id})
    return min(max((row.claim_until for row in rows), default=0), now_ms + leases.LONGEST_MS)


def traces(connection: Connection, profile_key: str) -> int:
    """Return how many events of batches are about a profile."""
    return sum(len(all_events) - len(others) for _, all_events, others in _without(connection, profile_key))


def forget(connection: Connection, profile_key: str) -> None:
    """Take a person's events out of every batch, open or accepted; open ones are free then.

    Nobody else may have a claim on an open one (`seize`), nor take rows (`block_taking`), until this transaction ends.
    """
    for row, all_events, others in _without(connection, profile_key):
        if len(others) == len(all_events):
            continue
        if not others:
            connection.execute(sa.text("DELETE FROM batches WHERE id = :i"), {"i": row.id})
            continue
        keys = [key for key in orjson.loads(row.keys) if key != profile_key]
        connection.execute(
            sa.text(
                "UPDATE batches SET shards = :shards, size = :n, keys = :keys, events = :events, error = NULL,"
                " claim = claim + 1, holder = '', claim_until = 0 WHERE id = :i"
            ),
            {
                "i": row.id,
                "shards": _spaced(map(shard_of, keys)),
                "n": len(others),
                "keys": orjson.dumps(keys).decode(),
                "events": orjson.dumps(_regrouped(others)).decode(),
            },
        )


def _without(
    connection: Connection, profile_key: str
) -> list[tuple[sa.Row[tuple[object, ...]], list[list[object]], list[list[object]]]]:
    """Return the batches that name a profile, each with all its events and with those of others."""
    _lock(connection, about(connection), about_parameters(profile_key))
    rows = connection.execute(
        sa.text(f"SELECT id, keys, events FROM batches WHERE {about(connection)} ORDER BY id"),
        about_parameters(profile_key),
    )
    found = []
    for row in rows:
        flat = [[head, person] for *head, people in orjson.loads(row.events) for person in people]
        found.append((row, flat, [[head, person] for head, person in flat if person[0] != profile_key]))
    return found


def _regrouped(flat: list[list[object]]) -> list[list[object]]:
    return [[*head, [person for _, person in group]] for head, group in groupby(flat, key=lambda one: one[0])]
