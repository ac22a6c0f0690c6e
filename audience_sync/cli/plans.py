"""What `plan` prints: every change, what a plan amounts to, and the events that would be posted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from rich.markup import escape

from audience_sync.cli.context import console
from audience_sync.cli.output import Format, Sheet, harmless
from audience_sync.cli.reporting import consequences
from audience_sync.config import Settings
from audience_sync.core.destination.parcels import Parcel, make_parcel
from audience_sync.core.destination.timestamps import iso
from audience_sync.core.events import Event, OpenChange, with_key
from audience_sync.core.model import Change, ChangeKind, Computation, delivered_value
from audience_sync.core.rows import Reason
from audience_sync.db import Database
from audience_sync.store import audiences, binding, outbox
from audience_sync.sync import Plan

CHANGE_COLUMNS = ("audience", "change", "profile_key", "value", "identifiers")
COLUMNS = (*CHANGE_COLUMNS, "bodies", "rejected", "computation")
SHOWN = ("audience", "computation", *CHANGE_COLUMNS[1:])
REDACTED = "(the API key)"
MADE_WHEN_SENT = "(made when it is sent)"


class PlanSheet:
    """Prints plans: every change as a line of json or csv, or a summary, the first changes, and samples of events."""

    def __init__(self, settings: Settings, database: Database, *, format: Format, limit: int, now: datetime) -> None:
        self._settings = settings
        self._format = format
        self._limit = limit
        self._at = iso(now)
        with database.read() as connection:
            environment = binding.environment(connection) or settings.schematic.environment
            self._ids = {row.key: row.id for row in audiences.every(connection)}
            self._waiting = outbox.count(connection)[0]
        self._destination = settings.destination(environment)
        self._computations = {one.key: one.computation for one in settings.audiences}
        self._sheet = Sheet(COLUMNS, format=format, shown=SHOWN)
        self._shown: Counter[str] = Counter()
        self._rejected: Counter[tuple[str, str]] = Counter()  # by audience and reason
        self._samples: dict[tuple[str, ChangeKind, tuple[str, ...]], str] = {}  # by audience, kind and mappings

    def changes_of(self, key: str) -> Callable[[Change], None]:
        """Return what is to be told each change of an audience."""

        def show(change: Change) -> None:
            parcel = self._parcel(key, change)
            self._rejected.update((key, reason) for _, reason in parcel.rejected)
            for event in parcel.events:
                if (place := (key, change.kind, event.mappings)) not in self._samples:
                    self._samples[place] = self._shown_body(key, event)
            if self._format is Format.TABLE and self._shown[key] >= self._limit:
                return
            self._shown[key] += 1
            bodies = [self._shown_body(key, event) for event in parcel.events]
            self._sheet.add(
                {
                    "audience": key,
                    "change": change.kind.value,
                    "profile_key": change.profile_key,
                    "value": change.value,
                    "identifiers": change.identifiers,
                    "bodies": f"[{','.join(bodies)}]",
                    "rejected": "; ".join(reason for _, reason in parcel.rejected) or None,
                    "computation": self._computations[key].value,
                }
            )

        return show

    def show(self, plan: Plan) -> None:
        """Say what a plan amounts to."""
        c = plan.counts
        if plan.computation is Computation.AUDIENCE:
            before = f"{plan.members_before:,} members"
            would = f"{c.entered:,} would enter, {c.exited:,} exit, {c.updated:,} be updated"
        else:
            before = f"{plan.members_before:,} have a value"
            would = f"{c.entered:,} would get a value, {c.exited:,} lose it, {c.updated:,} be updated"
        console.print(
            f"[bold]{plan.audience_key}[/] ({plan.kind}, as of {plan.as_of:%Y-%m-%d %H:%M:%S} UTC, {before}):"
            f" {c.read:,} read, {would}; {c.unchanged:,} unchanged, {c.rejected:,} rejected,"
            f" {c.duplicates:,} duplicates",
        )
        audience = self._settings.audience(plan.audience_key)
        if audience.query is not None:
            console.print(f"  {escape(audience.definition)}", highlight=False)
        if plan.definition_changed:
            console.print("  its definition was edited since its last sync")
        for reason, count in sorted(plan.rejections.counts.items()):
            console.print(f"  {count:,} rows: {_explain(reason)}")
        if c.changed:
            console.print(f"  {consequences(plan.audience_key, c.changed, plan.new_users, self._settings)}")
        for (key, sentence), count in self._rejected.items():
            if key == plan.audience_key:
                console.print(f"  [yellow]{count:,} would be dead:[/] {escape(sentence)}")
        for refusal in plan.refusals:
            console.print(f"  [yellow]a guard would block it:[/] {refusal}")

    def close(self) -> None:
        """Print what is left to print: in a table's stead, the samples stand below all tables."""
        self._sheet.close()
        if self._format is Format.TABLE:
            for (key, kind, mappings), body in self._samples.items():
                sys.stdout.write(f"\nto be posted, for example ({key}, {kind}, by {', '.join(mappings)}):\n{body}\n")
        if self._waiting:
            console.print(f"{self._waiting:,} changes of earlier runs wait, and go with the next delivery")

    def _parcel(self, key: str, change: Change) -> Parcel:
        """Return what a change would come to, if its person has no other open change."""
        value = delivered_value(change)
        row = OpenChange(
            shard=0,
            profile_key=change.profile_key,
            audience_id=self._ids.get(key, 0),
            trait=key,
            value=value,
            identifiers=change.identifiers,
            generation=0,
            run_id=0,
            kind=change.kind,
            computation=self._computations[key],
        )
        return make_parcel([row], self._destination, at=self._at)

    def _shown_body(self, key: str, event: Event) -> str:
        """Return an event as it would be posted, but for the keys that are made when it is."""
        body = with_key(event.body, api_key=REDACTED).replace(event.idempotency_key, MADE_WHEN_SENT)
        number = self._ids.get(key, 0)
        body = body.replace(f"personas_{number}.0.", f"personas_{number or MADE_WHEN_SENT}.{MADE_WHEN_SENT}.")
        return harmless(body)


def _explain(reason: Reason) -> str:
    return {
        Reason.NULL_KEY: "the identity is NULL",
        Reason.EMPTY_KEY: "the identity is empty",
        Reason.LONG_KEY: "the identity is longer than 255 characters",
        Reason.UNUSABLE_TEXT: "the identity has control characters or is no valid text",
        Reason.UNSUPPORTED_TYPE: "the identity is neither text, a whole number nor a UUID",
        Reason.DUPLICATE: "the identity came before; the row with the smallest canonical JSON counts",
        Reason.OMITTED_IDENTIFIER: "another identifier is unusable and is left out",
        Reason.NULL_VALUE: "there is no value",
        Reason.LONG_VALUE: "the value is longer than 1,024 characters, which Schematic does not take; there is none",
        Reason.UNFIT_VALUE: "the value is not of the declared type, or cannot be written as JSON; there is none",
    }[reason]
