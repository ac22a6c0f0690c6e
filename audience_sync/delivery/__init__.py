"""Delivery: what waits goes to the destination, in order for each profile, until there is nothing left that can go."""

from __future__ import annotations

from audience_sync.delivery.delivery_loop import DeliveryOptions, DeliveryReport, KnownDestination, deliver
from audience_sync.delivery.reachability import OutageChange, Reachability

__all__ = ["DeliveryOptions", "DeliveryReport", "KnownDestination", "OutageChange", "Reachability", "deliver"]
