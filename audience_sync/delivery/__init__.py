"""Deliver pending events to the destination, in order for each profile, until nothing more can be sent."""

from __future__ import annotations

from audience_sync.delivery.delivery_loop import DeliveryOptions, DeliveryReport, KnownDestination, deliver
from audience_sync.delivery.reachability import OutageChange, Reachability
from audience_sync.delivery.side_deliveries import SideDeliveries, SideDelivery

__all__ = [
    "DeliveryOptions",
    "DeliveryReport",
    "KnownDestination",
    "OutageChange",
    "Reachability",
    "SideDeliveries",
    "SideDelivery",
    "deliver",
]
