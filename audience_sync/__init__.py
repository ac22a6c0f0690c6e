"""Segment Engage for your own database: audiences computed where your users live, kept true in Schematic."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: to import what finds it takes longer than to parse a command."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    return version("audience-sync")
