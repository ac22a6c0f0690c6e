"""A local Schematic to develop and test against: capture, read-back, faults on demand, and a ledger of all it got."""

from __future__ import annotations

from audience_sync.sandbox.faults import FaultRule, Faults, Gate
from audience_sync.sandbox.ledger import Ledger
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY, Sandbox
from audience_sync.sandbox.sandbox_state import Settings
from audience_sync.sandbox.stored_events import EventFilter, StoredEvent

__all__ = [
    "DEVELOPMENT_KEY",
    "EventFilter",
    "FaultRule",
    "Faults",
    "Gate",
    "Ledger",
    "Sandbox",
    "Settings",
    "StoredEvent",
]
