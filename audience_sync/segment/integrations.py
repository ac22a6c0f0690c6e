"""The `integrations` object of an event: whether the event is meant for Schematic.

The key `All`, in any case, says it for every destination that is not named; the key `Schematic`, in exactly this case,
for Schematic. Under that name only `false` keeps an event away: an object, a text or null are options of a destination
that is on. Libraries of the past wrote the same into `options` or `options.providers`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from audience_sync.core.model import Json

NAME: Final = "Schematic"


class Reason(StrEnum):
    """Why an event is kept away from Schematic."""

    FILTERED = "filtered_by_integrations_object"
    UNKNOWN_NAME = "unknown_integration"  # it names Schematic, but not by its exact name, which is as not naming it


def kept_away(integrations: Json, options: Json = None) -> Reason | None:
    """Return why an event with these `integrations`, or `options`, is kept away; None if it is not."""
    if not integrations and not options:  # most events have none, or an empty object
        return None
    providers = options.get("providers") if isinstance(options, dict) else None
    named = next((place for place in (integrations, providers, options) if isinstance(place, dict)), {})
    if NAME in named:
        return Reason.FILTERED if named[NAME] is False else None
    said = (_all(place) for place in (providers, options, integrations))
    if next((value for value in said if isinstance(value, bool)), True):
        return None
    return Reason.UNKNOWN_NAME if any(_is_misnamed(*item) for item in named.items()) else Reason.FILTERED


def _all(place: Json) -> Json:
    """Return the value of the first key that is `All` in any case."""
    if not isinstance(place, dict):
        return None
    return next((value for name, value in place.items() if name.lower() == "all"), None)


def _is_misnamed(name: str, value: Json) -> bool:
    """Tell whether a key wants Schematic switched on under a name like "schematic" or "Actions Schematic"."""
    return value is not False and NAME.lower() in name.lower()
