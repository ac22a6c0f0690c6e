"""From an audience or computed trait of the settings to its rows, in its source."""

from __future__ import annotations

from audience_sync.computing.definitions import Definition, open_definition

__all__ = ["Definition", "open_definition"]
