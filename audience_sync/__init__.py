"""Segment Engage for your own database: audiences computed where your users live, kept true in Schematic."""

from importlib.metadata import version

__version__ = version("audience-sync")
