"""User identifiers besides the identity: two profiles that were sent with the same one are one user in Schematic.

Schematic resolves a user by any key that it was ever sent. As soon as one such identifier is known, exits are sent
before everything else, and once an exit is answered, the members of its audience who share an identifier with it are
sent again. Identifiers that only forwarded events carry are not known here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Final

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.keys import canonical
from audience_sync.core.model import EXIT_VALUES, MEMBER_VALUE, ChangeKind
from audience_sync.core.text import counted
from audience_sync.destinations.open_changes import OpenChanges
from audience_sync.destinations.rendered_events import RenderedEvent
from audience_sync.store import audiences, bulk, generations, outbox, schema, settings_table
from audience_sync.store.database import tuning_of
from audience_sync.store.runs import RunRow, identifiers_of
from audience_sync.store.schema import PRIMARY_DESTINATION

MOST_HOLDERS: Final = 20  # an identifier that more profiles have had is not followed: it names nobody

SHARED_HINT: Final = "the view `shared_identifiers` lists them; use a unique value for each person, or remove the key"

_EXPECTED: Final = "user_identifiers"  # the setting of `expect`

_TAKE: Final = "take"  # the setting of `block_taking`

_PLACE: Final = itemgetter(0, 1)  # of a row: in the order in which others lock them
_OF_MEMBER: Final = identifiers_of("m.identifiers", "w")
_STAGED: Final = identifiers_of("s.identifiers", "n")
_MARK: Final = '"user":'  # in identifiers with a user key besides the identity


def note_in_use(connection: Connection) -> None:
    """Note that an audience has user identifiers besides the identity."""
    if not any_expected(connection):
        settings_table.put(connection, _EXPECTED, "1")


def any_expected(connection: Connection) -> bool:
    """Return whether an audience of this database has or has had user identifiers besides the identity."""
    return settings_table.get(connection, _EXPECTED) is not None


def block_taking(connection: Connection, *, destination: str = PRIMARY_DESTINATION) -> None:
    """Have all processes wait with taking rows into batches for a destination until this transaction ends."""
    if connection.dialect.name != "sqlite":  # a process that freezes now holds up all others
        for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {limit} = {tuning_of(connection).take_lock_ms}")
    settings_table.locked(connection, settings_table.name_of(_TAKE, destination))


def count_shared(connection: Connection) -> int:
    """Return how many user identifiers several profiles have or have had."""
    return int(connection.execute(sa.text("SELECT count(*) FROM shared_identifiers")).scalar_one())


def shared_sentence(count: int, *, destination: str) -> str:
    """Say how many identifiers are shared, and what that means."""
    several = counted(count, "user identifier")
    return f"{several} shared by several profiles, which {destination} may treat as one user"


def remember(connection: Connection, changes: OpenChanges, sent: OpenChanges) -> None:
    """Keep the user identifiers of changes; those that the changes are sent without, too."""
    rows: dict[tuple[str, str, str], bool] = {}
    for n in _with_keys(changes):
        kept = {*_pairs(sent.identifiers[n])}
        for pair in _pairs(changes.identifiers[n]):
            row = (changes.profile_keys[n], *pair)
            rows[row] = rows.get(row, False) or pair in kept
    if rows:
        given = bulk.table(connection, "rows", schema.user_identifiers.columns)
        connection.execute(
            sa.text(
                "INSERT INTO user_identifiers (profile_key, name, value, sent)"
                f" SELECT * FROM ({given}) AS had WHERE true ON CONFLICT (profile_key, name, value)"
                " DO UPDATE SET sent = excluded.sent WHERE excluded.sent AND NOT user_identifiers.sent"
            ),
            {"rows": bulk.given((*row, was_sent) for row, was_sent in sorted(rows.items()))},
        )


def without_shared(connection: Connection, changes: OpenChanges) -> OpenChanges:
    """Return changes, exits and updates without the user identifiers that another profile has or has had.

    An exit of a profile that was never sent keeps them: without them, Schematic would create a second user that they
    never resolve to.
    """
    with_keys = _with_keys(changes)
    if not with_keys:
        return changes
    rows = list(changes)
    careful = [n for n in with_keys if rows[n].value in EXIT_VALUES or rows[n].kind == ChangeKind.UPDATED]
    if not careful:
        return changes
    sent = _sent(connection, {rows[n].profile_key for n in careful})
    careful = [n for n in careful if rows[n].kind == ChangeKind.UPDATED or rows[n].profile_key in sent]
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for n in with_keys:
        for pair in _pairs(rows[n].identifiers):
            holders[pair].add(rows[n].profile_key)
    c = schema.user_identifiers.columns
    pairs = bulk.table(connection, "pairs", (c.name, c.value))
    known = connection.execute(
        sa.text(
            f"SELECT s.name, s.value, min(i.profile_key), max(i.profile_key) FROM ({pairs}) AS s"
            " JOIN user_identifiers i ON i.name = s.name AND i.value = s.value GROUP BY 1, 2"
        ),
        {"pairs": bulk.given(sorted({pair for n in careful for pair in _pairs(rows[n].identifiers)}))},
    )
    for name, value, *some in known:  # two are enough: one of them is another profile
        holders[name, value].update(some)
    found = list(changes.identifiers)
    for n in careful:
        shared = {pair for pair in _pairs(found[n]) if holders[pair] != {rows[n].profile_key}}
        if shared:
            found[n] = _without(found[n], shared)
    return changes.with_identifiers(found)


def mark_updates(connection: Connection, run: RunRow, *, upto: str) -> None:
    """Have updates of a plan that may give up a user identifier go with the exits: another profile may have it now.

    The outbox has them already, the memberships do not.
    """
    if not any_expected(connection):
        return
    connection.execute(
        sa.text(
            "UPDATE outbox SET gives_up = :yes"
            " FROM staged s CROSS JOIN memberships m CROSS JOIN runs w CROSS JOIN runs n"
            " WHERE s.run_id = :r AND s.profile_key <= :upto AND s.kind = 'updated' AND n.id = s.run_id"
            " AND m.audience_id = :a AND m.profile_key = s.profile_key AND w.id = m.run_id"
            f" AND {_OF_MEMBER} LIKE '%{_MARK}%' AND {_OF_MEMBER} <> COALESCE({_STAGED}, '')"
            " AND outbox.profile_key = s.profile_key AND outbox.audience_id = :a"
            " AND outbox.generation = :g"
        ),
        {"yes": True, "r": run.id, "a": run.audience_id, "g": run.generation, "upto": upto},
    )


def resend_sharers(connection: Connection, events: Iterable[RenderedEvent], *, now_ms: int) -> None:
    """Put members who share a user identifier with an exit among these events into the outbox, with current values.

    The exit was answered, and has taken the trait from a member who is the same user in Schematic. A value that waits
    for its turn anyway is sent after the exit: it stays as it is.
    """
    maybe = [(event, c) for event in events for c in event.carried if c.value in EXIT_VALUES]
    if not maybe or not any_expected(connection):
        return
    computations = audiences.computations(connection)  # `false` is also a value that a computed trait may have
    exits = {
        (event.profile_key, c.audience_id, c.run_id)
        for event, c in maybe
        if c.value == computations[c.audience_id].exit_value
    }
    if not exits:
        return
    block_taking(connection)  # what a sync writes from now on stays in the outbox until the end
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {tuning_of(connection).sharers_lock_ms}")
    c = schema.outbox.columns
    given = bulk.table(connection, "exits", (c.profile_key, c.audience_id, c.run_id))
    found = connection.execute(
        sa.text(
            f"SELECT m.profile_key, m.audience_id, COALESCE(m.value, '{MEMBER_VALUE}'), {_OF_MEMBER},"
            " max(x.run_id)"  # CROSS JOIN: SQLite goes from each exit to who shares its identifiers
            f" FROM ({given}) AS x CROSS JOIN user_identifiers mine CROSS JOIN user_identifiers theirs"
            " CROSS JOIN memberships m CROSS JOIN runs w WHERE mine.sent AND theirs.sent AND w.id = m.run_id"
            " AND mine.profile_key = x.profile_key"
            " AND theirs.name = mine.name AND theirs.value = mine.value AND theirs.profile_key <> mine.profile_key"
            " AND m.audience_id = x.audience_id AND m.profile_key = theirs.profile_key"
            " AND (SELECT count(*) FROM (SELECT 1 FROM user_identifiers n"
            "   WHERE n.name = mine.name AND n.value = mine.value LIMIT :most) AS holders) < :most"
            " GROUP BY m.profile_key, m.audience_id, m.value, m.identifiers, w.identifiers"
        ),
        {"exits": bulk.given(sorted(exits)), "most": MOST_HOLDERS + 1},
    ).all()
    if found:
        generation = generations.next_generation(connection, now_ms)
        rows = [(*sharer, generation, run_id, None, "resent") for *sharer, run_id in sorted(found, key=_PLACE)]
        outbox.insert(connection, rows, on_conflict=f"{outbox.REPLACE} WHERE outbox.dead_reason IS NOT NULL")


def _sent(connection: Connection, profiles: set[str]) -> set[str]:
    """Return which profiles were sent since they have user identifiers."""
    rows = connection.execute(
        sa.text(
            f"SELECT g.item FROM ({bulk.each(connection, 'profiles')}) AS g"
            " WHERE EXISTS (SELECT 1 FROM user_identifiers i WHERE i.profile_key = g.item)"
        ),
        {"profiles": bulk.texts(connection, sorted(profiles))},
    )
    return set(rows.scalars())


def _with_keys(changes: OpenChanges) -> list[int]:
    """Return the places of the changes that have user identifiers besides the identity."""
    return [n for n, known in enumerate(changes.identifiers) if known is not None and _MARK in known]


def _pairs(identifiers: str | None) -> Iterator[tuple[str, str]]:
    if identifiers is not None and _MARK in identifiers:
        yield from orjson.loads(identifiers).get("user", {}).items()


def _without(identifiers: str | None, shared: set[tuple[str, str]]) -> str | None:
    """Return identifiers without some user identifiers; None where nothing is left."""
    if identifiers is None:
        return None
    known = orjson.loads(identifiers)
    user = {name: value for name, value in known.pop("user", {}).items() if (name, value) not in shared}
    left = known | ({"user": user} if user else {})
    return canonical(left) if left else None
