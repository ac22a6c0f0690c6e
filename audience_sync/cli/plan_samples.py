"""Samples of a plan: changes with the bodies that would be posted for them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import typer
from rich.text import Text

from audience_sync.cli.context import out
from audience_sync.cli.output import Format, Sheet, harmless
from audience_sync.cli.paragraph import wrap
from audience_sync.config import Audience
from audience_sync.core.model import Change, ChangeKind, delivered_value
from audience_sync.core.text import printable
from audience_sync.destinations.schematic.parcels import Destination, Parcel, make_parcel
from audience_sync.destinations.wire_events import Event, OpenChange, with_key
from audience_sync.segment.timestamps import iso

COLUMNS: Final = (
    "record", "audience", "computation", "change", "profile_key", "value", "identifiers", "bodies", "rejected",
)  # fmt: skip
REDACTED: Final = "(the API key)"
MADE_WHEN_SENT: Final = "(made when it is sent)"


def sample_count(text: str | int) -> int:
    """Return the number of samples that an option asks for; `all` is every change.

    Raises:
        typer.BadParameter: it is neither.
    """
    if isinstance(text, str) and not text.isdecimal() and text != "all":
        raise typer.BadParameter(f"{text!r} is neither a number nor `all`")
    return sys.maxsize if text == "all" else min(int(text), sys.maxsize)


class PlanSamples:
    """Prints the first changes of each kind of each audience, each as if its profile had no other open change."""

    def __init__(
        self, destination: Destination, audience_ids: Mapping[str, int], *, most: int, format: Format, now: datetime
    ) -> None:
        self._destination = destination
        self._ids = audience_ids
        self._most = most
        self._at = iso(now)
        self._shown: Counter[tuple[str, ChangeKind]] = Counter()
        self._sheet = Sheet(COLUMNS, format=format) if most and format is not Format.TABLE else None
        self.rejected: Counter[tuple[str, str]] = Counter()  # by audience and reason

    def take(self, audience: Audience, changes: Sequence[Change]) -> None:
        """Print changes until there are enough samples of their kind."""
        if self._most:
            for change in changes:
                if self._shown[audience.key, change.kind] < self._most:
                    self._shown[audience.key, change.kind] += 1
                    self._show(audience, change)

    def _show(self, audience: Audience, change: Change) -> None:
        parcel = self._parcel(audience, change)
        bodies = [self._shown_body(audience.key, event) for event in parcel.events]
        reasons = [reason for _, reason in parcel.rejected]
        self.rejected.update((audience.key, reason) for reason in reasons)
        if self._sheet is None:
            value = "" if change.value is None else f" {change.value}"
            out.print(Text(printable(f"{audience.key} {change.kind.value} {change.profile_key}{value}")))
            for body in bodies:
                out.print_lines(wrap(Text(body), out.line_width, hang=2, is_json=True))
            for reason in reasons:
                out.print(Text(f"would be dead: {printable(reason)}"))
            out.print()
            return
        self._sheet.add(
            {
                "record": "sample",
                "audience": audience.key,
                "computation": audience.computation.value,
                "change": change.kind.value,
                "profile_key": change.profile_key,
                "value": change.value,
                "identifiers": change.identifiers,
                "bodies": f"[{','.join(bodies)}]",
                "rejected": "; ".join(reasons) or None,
            }
        )

    def _parcel(self, audience: Audience, change: Change) -> Parcel:
        row = OpenChange(
            profile_key=change.profile_key,
            audience_id=self._ids.get(audience.key, 0),
            trait=audience.key,
            value=delivered_value(change),
            identifiers=change.identifiers,
            generation=0,
            run_id=0,
            kind=change.kind,
            computation=audience.computation,
        )
        return make_parcel([row], self._destination, at=self._at)

    def _shown_body(self, key: str, event: Event) -> str:
        """Return an event as it would be posted, except for the keys that are made at delivery."""
        body = with_key(event.body, api_key=REDACTED).replace(event.idempotency_key, MADE_WHEN_SENT)
        number = self._ids.get(key, 0)
        body = body.replace(f"personas_{number}.0.", f"personas_{number or MADE_WHEN_SENT}.{MADE_WHEN_SENT}.")
        return harmless(body)
