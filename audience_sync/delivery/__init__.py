"""Delivery: what waits goes to Schematic, in order for each profile, until there is nothing left that can go."""

from __future__ import annotations

from audience_sync.delivery.opening import Acquaintance
from audience_sync.delivery.reachability import OutageChange, Reachability
from audience_sync.delivery.session import Delivery, DeliveryReport, deliver

__all__ = ["Acquaintance", "Delivery", "DeliveryReport", "OutageChange", "Reachability", "deliver"]
