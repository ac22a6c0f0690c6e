"""What the mappings make of a Segment event, to be looked at: nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from audience_sync.destinations.schematic.actions import Rejection
from audience_sync.destinations.schematic.mappings import Mapping, judge
from audience_sync.destinations.wire_events import with_key
from audience_sync.forwarding.reading import Read


class Preview(NamedTuple):
    """What one event would come to.

    `matched` are the names of the enabled mappings whose trigger it matches, in the order of the configuration;
    `bodies` are the JSON texts of what would be posted to ``/e``, each with the name of its mapping.
    """

    line: int
    type: str
    message_id: str | None  # None as well if it is no text
    matched: list[str]
    bodies: list[tuple[str, str]]
    rejections: list[tuple[str, Rejection]]
    kept_away: str | None

    @property
    def codes(self) -> list[str]:
        """Return why nothing, or nothing more, is sent: `reasons` without their sentences."""
        return [self.kept_away] if self.kept_away else [f"{name}: {one.reason}" for name, one in self.rejections]

    @property
    def reasons(self) -> list[str]:
        """Return why nothing, or nothing more, is sent.

        ``no_matching_mapping``, ``filtered_by_integrations_object`` and ``unknown_integration`` speak of the event and
        stand alone. A mapping that matches and can make no body is ``name: code: sentence``, where the code is one of
        `RejectionReason`.
        """
        if self.kept_away:
            return [self.kept_away]
        return [f"{name}: {one.reason}: {one.sentence}" for name, one in self.rejections]


def preview(read: Read, mappings: Sequence[Mapping], *, api_key: str) -> Preview:
    """Return what the mappings make of an event; `api_key` is what the bodies have in the place of the key."""
    event = read.event
    verdict = judge(event, mappings)
    bodies = [(mapping.name, with_key(made.text.decode(), api_key=api_key)) for mapping, made in verdict.bodies]
    answered = {mapping.name for mapping, _ in (*verdict.bodies, *verdict.rejections)}
    matched = [mapping.name for mapping in mappings if mapping.name in answered]
    message_id = event.get("messageId")
    return Preview(
        line=read.line,
        type=str(event["type"]),
        message_id=message_id if isinstance(message_id, str) else None,
        matched=matched,
        bodies=bodies,
        rejections=[(mapping.name, rejection) for mapping, rejection in verdict.rejections],
        kept_away=verdict.kept_away,
    )
