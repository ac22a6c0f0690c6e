"""Changes as Segment events, as an audience or computed trait of Segment Engage would send them.

A change is an `identify`: the trait, ``context.personas`` that names the audience or computed trait, a `messageId`
that a repetition shares, and an integrations object that names one destination alone. In addition
``context.user_keys`` and ``context.company_keys`` have every key that the definition names, and ``context.change`` is
the kind of change: entered, exited (of a computed trait: it is null now), updated (identifiers or value differ), or
resent (nothing has changed, and the destination gets it again).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from audience_sync.core.model import Computation, Json
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.segment.segment_events import SegmentEvent


def newest(changes: Sequence[OpenChange]) -> OpenChange:
    """Return the change of a profile whose identifiers count: values of one key are never joined from several."""
    return changes[0] if len(changes) == 1 else max(changes, key=lambda one: (one.generation, one.audience_id))


def change_event(
    changes: Sequence[OpenChange],
    identifiers: str | None,
    *,
    identity: str,
    environment: str,
    at: str,
    integrations: Json,
) -> SegmentEvent:
    """Return changes of one profile as one Segment event. Its fields that differ between changes are of the first."""
    first = changes[0]
    computation = Computation(first.computation)
    known: Mapping[str, dict[str, Json]] = orjson.loads(identifiers) if identifiers else {}
    user: dict[str, Json] = {identity: first.profile_key, **known.get("user", {})}
    context: dict[str, Json] = {
        "personas": {
            "computation_class": computation.value,
            "computation_id": f"{computation.id_prefix}_{first.trait}",
            "computation_key": first.trait,
            "namespace": environment,
            "space_id": environment,
        },
        "change": first.kind,
        "user_keys": user,
    }
    event: dict[str, Json] = {
        "type": "identify",
        "messageId": f"personas_{first.audience_id}.{first.generation}.{first.profile_key}",
        "timestamp": at,
        "traits": {change.trait: orjson.loads(change.value) for change in changes},
        "context": context,
        "integrations": integrations,
    }
    for name in ("userId", "anonymousId"):
        if name in user:
            event[name] = user[name]
    if company := known.get("company"):
        context["company_keys"] = company
        if "groupId" in company:
            context["groupId"] = company["groupId"]
    return event
