"""Segment events in a file: read line by line, shown as what the mappings make of them, or taken to be delivered."""

from __future__ import annotations

from audience_sync.forwarding.previewing import Preview, preview
from audience_sync.forwarding.reading import BadLine, Read, name_of, open_events, read_events
from audience_sync.forwarding.taking import Forwarding, Tally, forward

__all__ = [
    "BadLine",
    "Forwarding",
    "Preview",
    "Read",
    "Tally",
    "forward",
    "name_of",
    "open_events",
    "preview",
    "read_events",
]
