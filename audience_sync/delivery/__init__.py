"""Delivery: from the outbox to Schematic, in order for each profile, until there is nothing left that can go."""

from __future__ import annotations

from audience_sync.delivery.session import Delivery, DeliveryReport, deliver

__all__ = ["Delivery", "DeliveryReport", "deliver"]
