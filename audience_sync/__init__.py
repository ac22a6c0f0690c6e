"""Segment Engage for your own database: audiences computed where your users live, kept true in Schematic."""

from __future__ import annotations

__version__ = "0.8.0"
