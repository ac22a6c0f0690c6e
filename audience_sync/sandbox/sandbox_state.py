"""What the parts of a running sandbox share: its settings, the keys it accepts, its faults and its ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from audience_sync.sandbox.faults import Faults, Gate
from audience_sync.sandbox.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which Schematic environment the sandbox stands for, and how many events a batch may have."""

    environment_id: str = "env_sandbox"
    environment_name: str = "Sandbox"
    environment_type: str = "development"  # or staging, production
    batch_limit: int = 100


class Keys:
    """The API keys accepted now; safe to change and to ask from any thread."""

    def __init__(self, accepted: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._accepted = frozenset(accepted)

    def revoke(self, *keys: str) -> None:
        """Accept these no more."""
        with self._lock:
            self._accepted -= frozenset(keys)

    def restore(self, *keys: str) -> None:
        """Accept these from now on, whether they were known before or not."""
        with self._lock:
            self._accepted |= frozenset(keys)

    def accept(self, key: object) -> bool:
        """Return whether `key` is good now."""
        return key in self._accepted


@dataclass(frozen=True)
class State:
    """One running sandbox."""

    ledger: Ledger
    keys: Keys = field(repr=False)
    settings: Settings
    faults: Faults
    gate: Gate
