"""How the membership database stands to what a definition says of one user now."""

from __future__ import annotations

from dataclasses import dataclass

from audience_sync import app as engine
from audience_sync.audiences.explanation import Explanation
from audience_sync.config import Settings
from audience_sync.core.guard import Hold
from audience_sync.core.model import Computation, Member, OnMissing
from audience_sync.core.text import instant_text
from audience_sync.errors import AudienceSyncError
from audience_sync.store import audiences, database_overview
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.reports import Record
from audience_sync.sync import standing_hold


@dataclass(frozen=True)
class Standing:
    """The state of a user in an audience in the database, and a sentence that says what a sync would change.

    `is_member` is None where nothing is known.
    """

    sentence: str
    is_member: bool | None = None
    value: str | None = None
    since: str | None = None
    identifiers: str | None = None
    run_id: int | None = None


def standing_of(settings: Settings, explanation: Explanation, *, sync: str) -> Standing:
    """Return what the database says; `sync` is what a sync is called that would change it.

    Without a database, or one that this program can use, the sentence says so.
    """
    audience = explanation.audience
    try:
        with engine.opened(settings) as database, database.read() as connection:
            row = audiences.find(connection, audience.key)
            if row is None:
                return Standing(f"in the membership database: {audience.key} was never synced")
            every = database_overview.profile_audiences(connection, explanation.user)
            hold = standing_hold(connection, settings, audience)
    except AudienceSyncError as error:
        return Standing(f"in the membership database: nothing is known ({error})")
    record = next(one for one in every if one["audience"] == audience.key)
    then = _next(row, explanation, record, hold, sync=sync)
    sentence = f"in the membership database: {_has(row, record)}; {then}"
    return Standing(
        sentence,
        is_member=record["member"],
        value=record["value"],
        since=record["since"],
        identifiers=record["identifiers"],
        run_id=record["run_id"],
    )


def _has(row: AudienceRow, record: Record) -> str:
    is_trait = row.computation is Computation.TRAIT
    if not record["member"]:
        return "no value" if is_trait else "not a member"
    what = f"the value {record['value']}, one" if is_trait else "a member"
    return f"{what} since {instant_text(record['since'])}, by run {record['run_id']}"


def _next(row: AudienceRow, explanation: Explanation, record: Record, hold: Hold | None, *, sync: str) -> str:
    audience, member = explanation.audience, explanation.found.member
    if row.state == "retired":
        return f"{audience.key} is retired and is never synced again"
    if row.computation is not audience.computation:
        return f"{audience.key} was synced as {row.computation} before, and a sync is refused"
    would = f"{sync} would {_would(explanation, member, record)}"
    if row.state == "paused":
        return f"{audience.key} is paused; after `audience-sync resume {audience.key}` {would}"
    if not audience.enabled:
        return f"{audience.key} is disabled in the configuration; were it on, {would}"
    if hold is not None:
        return f"{audience.key} is held: {hold.reason}; after that {would}"
    return would


def _would(explanation: Explanation, member: Member | None, record: Record) -> str:
    is_trait = explanation.audience.computation is Computation.TRAIT
    was = bool(record["member"])
    if member is None:
        if not was:
            return "change nothing"
        if explanation.audience.on_missing is OnMissing.KEEP and is_trait:
            return "keep the last value (on_missing)"
        return "take the value away" if is_trait else "let them exit"
    if not was:
        return f"give them the value {member.value}" if is_trait else "let them enter"
    if is_trait and member.value != record["value"]:
        return f"make the value {member.value}"
    return "change nothing" if member.identifiers == record["identifiers"] else "update their identifiers"
