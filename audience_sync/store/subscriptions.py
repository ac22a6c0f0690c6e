"""Subscriptions: destinations that get a message for every change of an audience.

A message is a row of `events`, inserted in the transaction of its change: none is lost, and none is about a change that
was not made. Its position is the generation of its run, so the messages of one profile keep the order of its changes.
The payload is a JSON object: `type` (`entered`, `exited` or `updated`), `value`, `identifiers` (as in `Member`, or
null), `key`, `name` and `computation` of the audience, `at` (the time of the run) and `initial`. The message about a
person who was erased from the database has the type `deleted`, and only `at`.

A subscription begins with the next sync of its audience, which makes messages of the members of that time if the
subscriber wants them. For a subscriber that does not, a first sync is the state from which changes count.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.config import Subscriber
from audience_sync.core.model import (
    MEMBER_VALUE,
    Change,
    ChangeKind,
    Computation,
    RunKind,
    delivered_value,
    from_ms,
)
from audience_sync.destinations.rendered_events import DELETED
from audience_sync.segment.timestamps import iso
from audience_sync.store import audiences, bulk, generations, outbox, schema
from audience_sync.store.runs import RunRow, identifiers_of

_INTO: Final = (
    "INSERT INTO events (destination, profile_key, position, message_id, type, name, payload, received_at)"
    " SELECT u.destination, {profile}, {position}, {message_id}, {kind}, CAST(:key AS TEXT),"
    ' \'{{"type":"\' || {kind} || \'","value":\' || {value} || \',"identifiers":\''
    " || COALESCE({identifiers}, 'null') || CAST(:rest AS TEXT), CAST(:now AS BIGINT) FROM {source}"
    " ORDER BY u.destination, {profile}"
)
_MEMBERS: Final = {
    "profile": "m.profile_key",
    "kind": f"'{ChangeKind.ENTERED}'",
    "value": f"COALESCE(m.value, '{MEMBER_VALUE}')",
    "identifiers": identifiers_of("m.identifiers", "w"),
}


# --- beginning and end ------------------------------------------------------------------------------------------------


def follow(connection: Connection, audience_id: int, subscribers: Sequence[Subscriber], *, now_ms: int) -> None:
    """Begin and end subscriptions of an audience, so that it has these; those that it had stay as they are.

    The caller holds the lease of the audience, and calls `queue_members` before it changes a member.

    Raises:
        DatabaseOlder: one begins, and the database comes from a backup.
        MarkUnusable: one begins, and the mark cannot be read.
    """
    found = connection.execute(
        sa.text("SELECT destination FROM subscriptions WHERE audience_id = :a"), {"a": audience_id}
    )
    known = set(found.scalars())
    wanted = {one.destination: one for one in subscribers}
    for destination in sorted(known - wanted.keys()):
        connection.execute(
            sa.text("DELETE FROM subscriptions WHERE audience_id = :a AND destination = :d"),
            {"a": audience_id, "d": destination},
        )
    for destination in sorted(wanted.keys() - known):
        with_members = wanted[destination].with_members
        connection.execute(
            sa.text(
                "INSERT INTO subscriptions (destination, audience_id, generation, with_members, members_after)"
                " VALUES (:d, :a, :g, :with_members, :after)"
            ),
            {
                "d": destination,
                "a": audience_id,
                "g": generations.next_generation(connection, now_ms),
                "with_members": with_members,
                "after": "" if with_members else None,
            },
        )


def end_others(connection: Connection, destinations: Collection[str]) -> None:
    """End the subscriptions of all destinations except these, so that removed ones get no new messages."""
    for destination in connection.execute(sa.text("SELECT DISTINCT destination FROM subscriptions")).scalars().all():
        if destination not in destinations:
            connection.execute(sa.text("DELETE FROM subscriptions WHERE destination = :d"), {"d": destination})


def any_begun(connection: Connection, audience_id: int) -> bool:
    """Return whether `queue_members` is to be called: a subscription of an audience still lacks members."""
    query = sa.text("SELECT 1 FROM subscriptions WHERE audience_id = :a AND members_after IS NOT NULL LIMIT 1")
    return connection.execute(query, {"a": audience_id}).first() is not None


def queue_members(connection: Connection, audience_id: int, *, now_ms: int, at_most: int) -> None:
    """Queue a page of the members that a new subscriber wants as its first messages, if there is one.

    The caller holds the lease of the audience: it has not changed since its subscription began.
    """
    pending = connection.execute(
        sa.text(
            "SELECT destination, members_after FROM subscriptions"
            " WHERE audience_id = :a AND members_after IS NOT NULL ORDER BY destination LIMIT 1"
        ),
        {"a": audience_id},
    ).first()
    if pending is None:
        return
    place = {"a": audience_id, "d": pending.destination, "after": pending.members_after}
    upto: str | None = connection.execute(
        sa.text(
            "SELECT profile_key FROM memberships WHERE audience_id = :a AND profile_key > :after"
            " ORDER BY profile_key LIMIT 1 OFFSET :n"
        ),
        {**place, "n": at_most - 1},
    ).scalar()
    until = "" if upto is None else " AND m.profile_key <= :upto"
    rest = _rest(connection, audience_id, at_ms=None, now_ms=now_ms, is_initial=True)
    statement = _INTO.format(
        **_MEMBERS,
        position="u.generation",
        message_id=f"'{audience_id:d}-' || u.generation",
        source="subscriptions u CROSS JOIN memberships m LEFT JOIN runs w ON w.id = m.run_id"
        " WHERE u.destination = :d AND u.audience_id = :a AND m.audience_id = :a"
        f" AND m.profile_key > :after{until}",
    )
    connection.execute(sa.text(statement), {**place, "upto": upto, **rest})
    connection.execute(
        sa.text("UPDATE subscriptions SET members_after = :upto WHERE destination = :d AND audience_id = :a"),
        {**place, "upto": upto},
    )


def destinations(connection: Connection) -> list[str]:
    """Return the destinations that have a subscription or, from an earlier one, something left to send."""
    found = connection.execute(
        sa.text(
            "SELECT destination FROM subscriptions"
            " UNION SELECT destination FROM events WHERE destination < :primary"
            " UNION SELECT destination FROM events WHERE destination > :primary"
            " UNION SELECT destination FROM batches WHERE status = 'open' AND destination <> :primary"
            " ORDER BY 1"
        ),
        {"primary": schema.PRIMARY_DESTINATION},
    )
    return list(found.scalars())


def drop(connection: Connection, destination: str) -> int:
    """Drop everything that waits for a destination, and its subscriptions; return how many messages that were.

    No process may deliver to it any more.
    """
    of = {"d": destination}
    in_batches = sa.text("SELECT COALESCE(sum(size), 0) FROM batches WHERE status = 'open' AND destination = :d")
    dropped = int(connection.execute(in_batches, of).scalar_one())
    connection.execute(sa.text("DELETE FROM batches WHERE status = 'open' AND destination = :d"), of)
    dropped += connection.execute(sa.text("DELETE FROM events WHERE destination = :d"), of).rowcount
    for table in ("subscriptions", "outage"):
        connection.execute(sa.text(f"DELETE FROM {table} WHERE destination = :d"), of)
    return dropped


# --- messages ---------------------------------------------------------------------------------------------------------


def enqueue(connection: Connection, run: RunRow, *, upto: str) -> None:
    """Queue a message for what a run's plan changes up to a profile, for each subscriber; as `outbox.enqueue`."""
    if not _has_subscribers(connection, run):
        return
    silent = "" if run.send_updates else f" AND s.kind <> '{ChangeKind.UPDATED}'"
    statement = _INTO.format(
        profile="s.profile_key",
        position=":g",
        message_id=":m",
        kind="s.kind",
        value=outbox.STAGED_VALUE,
        identifiers=identifiers_of("s.identifiers", "w"),
        source="subscriptions u CROSS JOIN staged s CROSS JOIN runs w"
        f" WHERE u.audience_id = :a{_of(run)} AND w.id = :r AND s.run_id = :r AND s.profile_key <= :upto{silent}",
    )
    connection.execute(sa.text(statement), {**_parameters(connection, run), "upto": upto})


def enqueue_members(connection: Connection, run: RunRow, *, first: str, last: str) -> None:
    """Queue a message for those from one profile to another who entered with a run, for each subscriber."""
    if not _has_subscribers(connection, run):
        return
    statement = _INTO.format(
        **_MEMBERS,
        position=":g",
        message_id=":m",
        source="subscriptions u CROSS JOIN memberships m CROSS JOIN runs w"
        f" WHERE u.audience_id = :a{_of(run)} AND w.id = :r AND m.audience_id = :a"
        " AND m.profile_key BETWEEN :first AND :last AND m.run_id = :r",
    )
    connection.execute(sa.text(statement), {**_parameters(connection, run), "first": first, "last": last})


def enqueue_deletion(connection: Connection, profile_key: str, *, now_ms: int) -> int:
    """Queue a message about a person who was erased from the database, for each subscriber; return how many.

    The caller has ended those of removed destinations (`end_others`): a message for one would keep the person here.

    Raises:
        DatabaseOlder: the database comes from a backup.
        MarkUnusable: the mark cannot be read.
    """
    found = connection.execute(sa.text("SELECT DISTINCT destination FROM subscriptions ORDER BY destination"))
    destinations = found.scalars().all()
    if not destinations:
        return 0
    generation = generations.next_generation(connection, now_ms)
    payload = orjson.dumps({"type": DELETED, "at": iso(from_ms(now_ms))}).decode()
    rows = [
        (profile_key, generation, f"{DELETED}-{generation}", DELETED, None, payload, now_ms, destination)
        for destination in destinations
    ]
    bulk.insert(connection, schema.events, rows, without={"dead_reason", "accepted"})
    return len(rows)


def _has_subscribers(connection: Connection, run: RunRow) -> bool:
    """Return whether a run makes messages."""
    query = sa.text(f"SELECT 1 FROM subscriptions u WHERE u.audience_id = :a{_of(run)} LIMIT 1")
    return connection.execute(query, {"a": run.audience_id, "yes": True}).first() is not None


def _of(run: RunRow) -> str:
    """Return the condition of the subscriptions `u` for which a run makes messages."""
    return " AND u.with_members = :yes" if run.kind is RunKind.INITIAL else ""


def _parameters(connection: Connection, run: RunRow) -> dict[str, object]:
    is_initial = run.kind is RunKind.INITIAL
    rest = _rest(connection, run.audience_id, at_ms=run.as_of, now_ms=run.started_at, is_initial=is_initial)
    return {
        "a": run.audience_id,
        "r": run.id,
        "g": run.generation,
        "m": f"{run.audience_id}-{run.generation}",
        "yes": True,
        **rest,
    }


def _rest(
    connection: Connection, audience_id: int, *, at_ms: int | None, now_ms: int, is_initial: bool
) -> dict[str, object]:
    """Return the parameters that are the same for all messages: the end of the payload, the key, and the time.

    Without a time, the members are those of the last sync.
    """
    audience = audiences.by_id(connection, audience_id)
    if at_ms is None:
        at_ms = now_ms if audience.applied_as_of is None else audience.applied_as_of
    rest = _facts(
        key=audience.key,
        name=audience.name,
        computation=audience.computation,
        at=iso(from_ms(at_ms)),
        is_initial=is_initial,
    )
    return {"key": audience.key, "now": now_ms, "rest": rest}


def payload(change: Change, *, key: str, name: str, computation: Computation, at: str, is_initial: bool) -> str:
    """Return the payload of the message about a change, as `enqueue` makes it in SQL."""
    rest = _facts(key=key, name=name, computation=computation, at=at, is_initial=is_initial)
    value, identifiers = delivered_value(change), change.identifiers or "null"
    return f'{{"type":"{change.kind.value}","value":{value},"identifiers":{identifiers}{rest}'


def _facts(*, key: str, name: str, computation: Computation, at: str, is_initial: bool) -> str:
    """Return the end of a payload: what is the same for all messages of a run."""
    facts = {"key": key, "name": name, "computation": computation.value, "at": at, "initial": is_initial}
    return "," + orjson.dumps(facts).decode()[1:]
