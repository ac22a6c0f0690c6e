"""Memberships, and the plans that wait to become memberships.

The table changes only in `apply_staged` and `enter` (and in `erasure.forget`), always together with history, outbox,
messages for subscribers and the audience's count: whoever sees one sees all of them.

The entries of a first sync are in no other table until the member changes or leaves: it would write everybody twice.
Readers of history include them through the view `all_changes`, or by `UNWRITTEN` where that view would be read whole.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.core.model import Change, ChangeKind, Member
from audience_sync.core.rows import Wrapping, bare
from audience_sync.store import audiences, bulk, identifiers, outbox, runs, schema, settings_table, subscriptions
from audience_sync.store.database import tuning_of
from audience_sync.store.runs import RunRow

_WHOLE: Final = runs.identifiers_of("m.identifiers", "w")
_MEMBERS: Final = f"SELECT m.profile_key, {_WHOLE}, m.value FROM memberships m LEFT JOIN runs w ON w.id = m.run_id"
HISTORY_FROM: Final = "history_from"
"""The setting that says from when on history is whole, in milliseconds since 1970; `erasure.purge` moves it."""

UNWRITTEN: Final = (
    "m.entered_run_id = r.id AND m.run_id = r.id AND r.kind = 'initial' AND r.as_of >= :history_from"
    " AND NOT EXISTS (SELECT 1 FROM changes w WHERE w.run_id = r.id AND w.profile_key = m.profile_key)"
)
"""The condition of members `m` whose entry, with the run `r`, no other table has; `history_from` is a parameter."""

_WRITE_ENTRIES: Final = sa.text(  # CROSS JOIN: SQLite goes from each change to its member
    "INSERT INTO changes (run_id, profile_key, kind, identifiers, value)"
    f" SELECT m.entered_run_id, m.profile_key, '{ChangeKind.ENTERED}', m.identifiers, m.value"
    " FROM staged s CROSS JOIN memberships m CROSS JOIN runs r"
    f" WHERE s.run_id = :r AND s.profile_key <= :upto AND s.kind <> '{ChangeKind.ENTERED}'"
    f" AND m.audience_id = :a AND m.profile_key = s.profile_key AND {UNWRITTEN}"
)
_NOW: Final = 0  # in place of a run: the digest of the members as they are


class Digest(NamedTuple):
    """The digest of some members: their number, and a sum over all of them; see `sync.duckdb_diff`."""

    version: str  # of everything that the sum depends on: another one says nothing
    members: int
    total: str


# --- members ----------------------------------------------------------------------------------------------------------


def texts(connection: Connection, audience_id: int, wrapping: Wrapping | None) -> Generator[bytes]:
    """Yield the members of an audience as lines (`core.rows`) in UTF-8, each with its end, many lines at a time.

    Identifiers are bare where they would be with this wrapping, or they are JSON. The lines are joined where they lie:
    a row costs several times as much on its way here, and the interpreter's lock is free while the database works.
    """
    template = None if wrapping is None else wrapping.template
    others = connection.execute(
        sa.text("SELECT 1 FROM runs WHERE audience_id = :a AND identifiers <> COALESCE(:t, '') LIMIT 1"),
        {"a": audience_id, "t": template},
    ).first()
    source, identifiers = "memberships m", "m.identifiers"
    if others is not None:
        source, identifiers = f"{source} JOIN runs w ON w.id = m.run_id", _WHOLE
    is_sqlite = connection.dialect.name == "sqlite"
    tab, end, join = ("char(9)", "char(10)", "group_concat") if is_sqlite else ("chr(9)", "chr(10)", "string_agg")
    line = (
        f"CASE WHEN m.value IS NULL AND m.identifiers IS NOT NULL THEN m.profile_key || {tab} || {identifiers}"
        f" WHEN m.value IS NULL THEN m.profile_key"
        f" ELSE m.profile_key || {tab} || COALESCE({identifiers}, '') || {tab} || m.value END"
    )
    page = f"SELECT {join}({line}, {end}) || {end} FROM {source} WHERE m.audience_id = :a AND m.profile_key > :after"
    at_most = tuning_of(connection).members_per_read
    upto: str | None = ""
    while upto is not None:
        after, upto = upto, page_end(connection, audience_id, after=upto, at_most=at_most)
        until = "" if upto is None else " AND m.profile_key <= :upto"  # a LIMIT would have each row copied once more
        text = connection.execute(sa.text(page + until), {"a": audience_id, "after": after, "upto": upto}).scalar()
        if text is not None:
            yield text.encode()


def find(connection: Connection, audience_id: int, profile_key: str) -> Member | None:
    """Return one member of an audience, or None."""
    row = connection.execute(
        sa.text(f"{_MEMBERS} WHERE m.audience_id = :a AND m.profile_key = :k"), {"a": audience_id, "k": profile_key}
    ).first()
    return None if row is None else Member(*row)


def first(connection: Connection, audience_id: int, *, at_most: int) -> list[Member]:
    """Return the first members of an audience by profile key."""
    rows = connection.execute(
        sa.text(f"{_MEMBERS} WHERE m.audience_id = :a ORDER BY m.profile_key LIMIT :n"),
        {"a": audience_id, "n": at_most},
    )
    return [Member(*row) for row in rows]


def page_end(connection: Connection, audience_id: int, *, after: str, at_most: int) -> str | None:
    """Return the last profile of the `at_most` members that follow a profile; None where fewer follow."""
    last: str | None = connection.execute(
        sa.text(
            "SELECT profile_key FROM memberships WHERE audience_id = :a AND profile_key > :after"
            " ORDER BY profile_key LIMIT 1 OFFSET :n"
        ),
        {"a": audience_id, "after": after, "n": at_most - 1},
    ).scalar()
    return last


def delivered_profiles(
    connection: Connection, audience_ids: Collection[int], profile_keys: Collection[str]
) -> set[str]:
    """Return which of some profiles are in one of some audiences, with nothing of that left to send."""
    if not audience_ids or not profile_keys:
        return set()
    listed = ", ".join(map(str, audience_ids))
    rows = connection.execute(
        sa.text(
            f"SELECT profile_key FROM memberships m WHERE audience_id IN ({listed})"
            f" AND profile_key IN ({bulk.each(connection, 'keys')}) AND NOT EXISTS (SELECT 1 FROM outbox o"
            " WHERE o.profile_key = m.profile_key AND o.audience_id = m.audience_id)"
        ),
        {"keys": bulk.texts(connection, profile_keys)},
    )
    return set(rows.scalars())


# --- plans ------------------------------------------------------------------------------------------------------------


def stage(connection: Connection, run: RunRow, changes: Sequence[Change]) -> None:
    """Keep changes as part of a run's plan."""
    around = run.wrapping
    rows = ((run.id, c.profile_key, c.kind.value, bare(c.identifiers, around), c.value) for c in changes)
    bulk.insert(connection, schema.staged, rows)


def next_staged(connection: Connection, run_id: int, *, at_most: int) -> str | None:
    """Return the profile up to which a run's plan has the next `at_most` changes; None when all is done."""
    last: str | None = connection.execute(
        sa.text(
            "SELECT max(profile_key) FROM"
            " (SELECT profile_key FROM staged WHERE run_id = :r ORDER BY profile_key LIMIT :n) AS next"
        ),
        {"r": run_id, "n": at_most},
    ).scalar()
    return last


def unstage(connection: Connection, run: RunRow) -> None:
    """Drop a run's plan."""
    connection.execute(sa.text("DELETE FROM staged WHERE run_id = :r"), {"r": run.id})
    _drop_digest(connection, run.audience_id, run.id)


def apply(connection: Connection, run: RunRow, changes: Sequence[Change]) -> None:
    """Make changes true: memberships, history, outbox, messages and count, all in one."""
    if changes:
        stage(connection, run, changes)
        apply_staged(connection, run, upto=max(change.profile_key for change in changes))


def apply_staged(connection: Connection, run: RunRow, *, upto: str) -> None:
    """Make what is staged up to a profile true, as `apply` does, and drop it from the plan."""
    place = {"a": run.audience_id, "r": run.id, "upto": upto}
    staged = "FROM staged WHERE run_id = :r AND profile_key <= :upto"
    gone = connection.execute(sa.text(f"SELECT profile_key {staged} AND kind = '{ChangeKind.EXITED}'"), place)
    exits = [(run.audience_id, key) for (key,) in gone]
    counted = connection.execute(sa.text(f"SELECT kind, count(*) {staged} GROUP BY kind"), place)
    kinds: dict[str, int] = dict(counted.all())
    statements = (
        (
            "INSERT INTO memberships (audience_id, profile_key, identifiers, value, entered_run_id, run_id)"
            f" SELECT :a, profile_key, identifiers, value, :r, :r {staged} AND kind <> '{ChangeKind.EXITED}'"
            " ORDER BY profile_key ON CONFLICT (audience_id, profile_key) DO UPDATE SET"
            " identifiers = excluded.identifiers, value = excluded.value, run_id = excluded.run_id"
        ),
        (
            "INSERT INTO changes (run_id, profile_key, kind, identifiers, value)"
            f" SELECT run_id, profile_key, kind, identifiers, value {staged} ORDER BY profile_key"
        ),
    )
    if kinds.get("exited") or kinds.get("updated"):
        _write_initial_entries(connection, run, upto=upto)
    _drop_digest(connection, run.audience_id, _NOW)
    outbox.enqueue(connection, run, upto=upto)
    subscriptions.enqueue(connection, run, upto=upto)
    if kinds.get("updated"):
        identifiers.mark_updates(connection, run, upto=upto)
    for statement in statements:
        connection.execute(sa.text(statement), place)
    # By their keys: for a condition on several columns SQLite would look through all members.
    bulk.delete(connection, schema.memberships, ("audience_id", "profile_key"), exits)
    audiences.add_members(connection, run.audience_id, kinds.get("entered", 0) - kinds.get("exited", 0))
    connection.execute(sa.text(f"DELETE {staged}"), place)


def enter(connection: Connection, run: RunRow, lines: Sequence[str]) -> None:
    """Make the people of sorted lines, identifiers bare, members where nobody was, which is all that a first sync does.

    History has their entries from the memberships themselves, see `UNWRITTEN`.
    """
    _drop_digest(connection, run.audience_id, _NOW)
    bulk.insert_members(connection, lines, audience_id=run.audience_id, run_id=run.id)
    first, last = (line.partition("\t")[0] for line in (lines[0], lines[-1]))
    outbox.enqueue_members(connection, run, first=first, last=last)
    subscriptions.enqueue_members(connection, run, first=first, last=last)
    audiences.add_members(connection, run.audience_id, len(lines))


def count_without_run(connection: Connection, audience_id: int) -> int:
    """Return how many members of an audience name a run that does not exist: only damage can do that."""
    is_there = "SELECT 1 FROM runs w WHERE w.id = m.{0} AND w.audience_id = m.audience_id"
    missing = " OR ".join(f"NOT EXISTS ({is_there.format(column)})" for column in ("run_id", "entered_run_id"))
    query = f"SELECT count(*) FROM memberships m WHERE audience_id = :a AND ({missing})"
    return int(connection.execute(sa.text(query), {"a": audience_id}).scalar_one())


def count_without_audience(connection: Connection) -> int:
    """Return how many members are of an audience that does not exist: only damage can do that."""
    query = "SELECT count(*) FROM memberships WHERE audience_id NOT IN (SELECT id FROM audiences)"
    return int(connection.execute(sa.text(query)).scalar_one())


def history_from(connection: Connection) -> int:
    """Return since when history is whole."""
    return int(settings_table.get(connection, HISTORY_FROM) or 0)


def _write_initial_entries(connection: Connection, run: RunRow, *, upto: str) -> None:
    """Write down the entries of members who change or leave with what a run has staged up to a profile."""
    connection.execute(
        _WRITE_ENTRIES, {"r": run.id, "a": run.audience_id, "upto": upto, "history_from": history_from(connection)}
    )


# --- digests ----------------------------------------------------------------------------------------------------------
# That of the members is dropped by whatever changes one, that of a plan with the plan, and all of them by `forget`.


def digest(connection: Connection, audience_id: int) -> Digest | None:
    """Return the digest of an audience's members, if there is one."""
    row = connection.execute(
        sa.text("SELECT version, members, total FROM digests WHERE audience_id = :a AND run_id = :r"),
        {"a": audience_id, "r": _NOW},
    ).first()
    return None if row is None else Digest(*row)


def keep_digest(connection: Connection, run: RunRow, digest: Digest, *, source_sums: str | None) -> None:
    """Keep with a run's plan what the members come to once all of it is applied, and what the source said of them."""
    bulk.upsert(connection, schema.digests, [(run.audience_id, run.id, *digest, source_sums)])


def source_sums(connection: Connection, audience_id: int) -> str | None:
    """Return what the source said of the rows that the members of an audience are; None: it did not, or they are not.

    It goes with the digest: whatever changes a member drops both.
    """
    found: str | None = connection.execute(
        sa.text("SELECT source_sums FROM digests WHERE audience_id = :a AND run_id = :r"),
        {"a": audience_id, "r": _NOW},
    ).scalar()
    return found


def keep_source_sums(connection: Connection, audience_id: int, found: str | None) -> None:
    """Keep what the source said of the rows that the members of an audience are, if there is a digest of them."""
    connection.execute(
        sa.text("UPDATE digests SET source_sums = :s WHERE audience_id = :a AND run_id = :r"),
        {"s": found, "a": audience_id, "r": _NOW},
    )


def trust_digest(connection: Connection, run: RunRow) -> None:
    """Make the digest of a run's plan, which is applied whole, that of the members, if it has as many.

    A count that somebody's hand has made wrong is corrected first: the run has compared everybody, and knows better.
    """
    place = {"a": run.audience_id, "r": run.id, "now": _NOW}
    kept = connection.execute(
        sa.text(
            "SELECT d.members, a.members FROM digests d JOIN audiences a ON a.id = d.audience_id"
            " WHERE d.audience_id = :a AND d.run_id = :r"
        ),
        place,
    ).first()
    if kept is None:
        return
    expected, counted = kept
    if counted != expected:
        found = connection.execute(
            sa.text("SELECT count(*) FROM memberships WHERE audience_id = :a"), place
        ).scalar_one()
        audiences.add_members(connection, run.audience_id, found - counted)
        counted = found
    if counted != expected:
        _drop_digest(connection, run.audience_id, run.id)
        return
    _drop_digest(connection, run.audience_id, _NOW)
    connection.execute(sa.text("UPDATE digests SET run_id = :now WHERE audience_id = :a AND run_id = :r"), place)


def forget_digests(connection: Connection) -> None:
    """Drop all digests, those of plans too: the next syncs compare everybody."""
    connection.execute(sa.text("DELETE FROM digests"))


def _drop_digest(connection: Connection, audience_id: int, run_id: int) -> None:
    connection.execute(
        sa.text("DELETE FROM digests WHERE audience_id = :a AND run_id = :r"), {"a": audience_id, "r": run_id}
    )
