"""The registry of destinations: one entry for each."""

from __future__ import annotations

from typing import Final

from audience_sync.destinations.schematic.schematic_destination import SchematicDestination
from audience_sync.destinations.webhook.webhook_destination import WebhookDestination

DESTINATIONS: Final = {destination.name: destination for destination in (SchematicDestination, WebhookDestination)}
"""The destinations by the names of their sections in the configuration."""
