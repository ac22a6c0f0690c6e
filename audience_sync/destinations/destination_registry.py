"""The registry of destinations: one line for each."""

from __future__ import annotations

from typing import Final

from audience_sync.destinations.schematic.schematic_destination import SchematicDestination

DESTINATIONS: Final = {destination.name: destination for destination in (SchematicDestination,)}
"""The destinations by the names of their sections in the configuration."""
