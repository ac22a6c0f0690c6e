"""Coverage of an audience by the mappings: two imaginary people enter and leave, and their bodies are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import orjson

from audience_sync.core.model import Computation
from audience_sync.destinations.destination_protocol import Coverage
from audience_sync.destinations.open_changes import OpenChange
from audience_sync.destinations.rendered_events import NOT_MAPPED, ProfileEvents

Bodies: TypeAlias = list[dict[str, Any]]


def coverage(
    entries: Sequence[OpenChange], none: str, render: Callable[[OpenChange], ProfileEvents], *, undecided: int
) -> Coverage:
    """Return how the changes of an audience or computed trait reach Schematic.

    `entries` are those of two people, and `none` is the value of who leaves. `render` leaves out the `undecided`
    mappings: those that depend on the environment while that is not known. With any of them, nothing counts as a gap.
    """
    trait, computation = entries[0].trait, entries[0].computation
    exits = [change._replace(value=none, kind="exited") for change in entries]
    rendered = [render(change) for change in (*entries, exits[0])]
    entered, others, exited = map(_bodies, rendered)
    rejections = list(dict.fromkeys([*_rejections(rendered[0]), *_rejections(rendered[2])]))
    gaps = [] if rejections or undecided else list(_gaps(trait, entered, exited, others))
    if (
        not Computation(computation).has_values
        and not rejections
        and not undecided
        and _names(entered) != _names(exited)
    ):
        gaps.append('a mapping uses this trait as user_name, so users would be named "true" and "false"')
    if not rejections and not undecided and not gaps:
        again = {kind: render(entries[0]._replace(kind=kind)) for kind in ("updated", "resent")}
        silent = [kind for kind, found in again.items() if not found.events]
        gaps += [f"a change with the value {' or '.join(silent)} makes no event"] if silent else []
    traits = [body["body"].get("traits", {}) for body in entered if body["type"] == "identify"]
    return Coverage(
        rejections,
        gaps,
        [] if rejections or gaps or undecided else list(_surprises(trait, traits)),
        max(len(entered), len(exited)) + undecided,
        sets_trait=bool(undecided) or any(trait in one for one in traits),
    )


def _bodies(found: ProfileEvents) -> Bodies:
    return [{**orjson.loads(event.body), "idempotency_key": ""} for event in found.events]


def _rejections(found: ProfileEvents) -> Iterator[str]:
    """Return why mappings whose trigger matches make no event of a change."""
    return (reason for _, reason in found.rejected if reason != NOT_MAPPED)


def _gaps(trait: str, entered: Bodies, exited: Bodies, others: Bodies) -> Iterator[str]:
    """Yield the facts about an entry, an exit and their users that Schematic would not get."""
    if not entered and not exited:
        yield "no enabled mapping has a trigger that matches it"
    elif not exited:
        yield "users who exit keep the trait: no enabled mapping has a trigger that matches an exit"
    elif not entered:
        yield "the trait is never set: no enabled mapping has a trigger that matches an entry"
    elif all(body in entered for body in exited) or all(body in exited for body in entered):
        yield "no enabled mapping sends its value, so Schematic cannot tell entries from exits"
    elif _values(trait, entered) and not _values(trait, exited) - _values(trait, entered):
        yield "users who exit keep the trait: the identify event for an exit does not change its value"
    for one, other in zip(entered, others, strict=False):
        if one["type"] == "identify" and one["body"]["keys"] == other["body"]["keys"]:
            yield (
                "all members would be the same user in Schematic: they all have the user keys"
                f" {', '.join(one['body']['keys'])}"
            )


def _names(bodies: Bodies) -> set[str]:
    return {body["body"]["name"] for body in bodies if "name" in body["body"]}


def _values(trait: str, bodies: Bodies) -> set[bytes]:
    traits = (body["body"].get("traits", {}) for body in bodies if body["type"] == "identify")
    return {orjson.dumps(one[trait]) for one in traits if trait in one}


def _surprises(trait: str, traits: list[dict[str, Any]]) -> Iterator[str]:
    """Yield surprises about the traits of the identifies."""
    if not traits:
        yield "is sent only as track events, which do not set the user's trait in Schematic"
    elif not any(trait in one for one in traits):
        names = ", ".join(sorted({name for one in traits for name in one}))
        if names:
            yield f"is not sent under its own name, but as the traits {names}"
        else:
            yield "is sent, but not as a user trait"
