"""Delivery: what waits goes to Schematic, in order for each profile, until there is nothing left that can go."""

from __future__ import annotations

from audience_sync.delivery.rate_limit import OutageChange, Reachability
from audience_sync.delivery.session import Acquaintance, Delivery, DeliveryReport, deliver

__all__ = ["Acquaintance", "Delivery", "DeliveryReport", "OutageChange", "Reachability", "deliver"]
