"""Segment Engage for your own database: define audiences where your data is and sync them to Schematic."""

from __future__ import annotations

__version__ = "0.9.0"
