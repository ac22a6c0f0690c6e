"""What `plan` prints: every change, what a plan amounts to, and the events that would be posted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from audience_sync.cli.context import console
from audience_sync.cli.output import Format, Sheet
from audience_sync.cli.reporting import consequences
from audience_sync.config import Settings
from audience_sync.core.destination.changes import iso
from audience_sync.core.destination.parcels import make_parcel
from audience_sync.core.events import OpenChange, with_key
from audience_sync.core.model import Change, ChangeKind, delivered_value
from audience_sync.core.rows import Reason
from audience_sync.sync import Plan

CHANGE_COLUMNS = ("audience", "change", "profile_key", "value", "identifiers")
COLUMNS = (*CHANGE_COLUMNS, "bodies")
REDACTED = "(the API key)"
MADE_WHEN_SENT = "(made when it is sent)"


class PlanSheet:
    """Prints plans: every change as a line of json or csv, or a summary, the first changes, and samples of events."""

    def __init__(self, settings: Settings, *, format: Format, limit: int, now: datetime) -> None:
        self._settings = settings
        self._format = format
        self._limit = limit
        self._at = iso(now)
        self._destination = settings.destination(settings.schematic.environment)
        self._sheet = Sheet(COLUMNS, format=format, shown=CHANGE_COLUMNS)
        self._shown: Counter[str] = Counter()
        self._samples: dict[str, dict[ChangeKind, list[str]]] = {}  # of each audience, the first of each kind

    def changes_of(self, key: str) -> Callable[[Change], None]:
        """Return what is to be told each change of an audience."""
        samples = self._samples.setdefault(key, {})

        def show(change: Change) -> None:
            hidden = self._format is Format.TABLE and self._shown[key] >= self._limit
            if hidden and change.kind in samples:
                return
            bodies = self._bodies(key, change)
            samples.setdefault(change.kind, bodies)
            if hidden:
                return
            self._shown[key] += 1
            self._sheet.add(
                {
                    "audience": key,
                    "change": change.kind.value,
                    "profile_key": change.profile_key,
                    "value": change.value,
                    "identifiers": change.identifiers,
                    "bodies": f"[{','.join(bodies)}]",
                }
            )

        return show

    def show(self, plan: Plan) -> None:
        """Say what a plan amounts to."""
        c = plan.counts
        console.print(
            f"[bold]{plan.audience_key}[/] ({plan.kind}, as of {plan.as_of:%Y-%m-%d %H:%M:%S} UTC,"
            f" {plan.members_before:,} members): {c.read:,} read, {c.entered:,} would enter, {c.exited:,} exit,"
            f" {c.updated:,} be updated; {c.unchanged:,} unchanged, {c.rejected:,} rejected,"
            f" {c.duplicates:,} duplicates",
        )
        if plan.definition_changed:
            console.print("  its definition was edited since its last sync")
        for reason, count in sorted(plan.rejections.counts.items()):
            console.print(f"  {count:,} rows: {_explain(reason)}")
        if c.changed:
            console.print(f"  {consequences(plan.audience_key, c.changed, plan.new_users, self._settings)}")
        for refusal in plan.refusals:
            console.print(f"  [yellow]a guard would block it:[/] {refusal}")

    def close(self) -> None:
        """Print what is left to print: in a table's stead, the samples stand below all tables."""
        self._sheet.close()
        if self._format is not Format.TABLE:
            return
        for key, kinds in self._samples.items():
            for kind, bodies in kinds.items():
                sys.stdout.write(f"\nto be posted, for example ({key}, {kind}):\n")
                sys.stdout.writelines(f"{body}\n" for body in bodies)

    def _bodies(self, key: str, change: Change) -> list[str]:
        """Return the events of a change as they would be posted; their keys are known when they are."""
        row = OpenChange(0, change.profile_key, 0, key, delivered_value(change), change.identifiers, 0, 0)
        return [
            with_key(event.body, api_key=REDACTED).replace(event.idempotency_key, MADE_WHEN_SENT)
            for event in make_parcel([row], self._destination, at=self._at).events
        ]


def _explain(reason: Reason) -> str:
    return {
        Reason.NULL_KEY: "the identity is NULL",
        Reason.EMPTY_KEY: "the identity is empty",
        Reason.LONG_KEY: "the identity is longer than 255 characters",
        Reason.UNUSABLE_TEXT: "the identity has control characters or is no valid text",
        Reason.UNSUPPORTED_TYPE: "the identity is neither text, a whole number nor a UUID",
        Reason.DUPLICATE: "the identity came before; the row with the smallest canonical JSON counts",
        Reason.OMITTED_IDENTIFIER: "another identifier is unusable and is left out",
    }[reason]
