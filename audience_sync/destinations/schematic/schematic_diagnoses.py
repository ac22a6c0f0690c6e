"""Diagnoses of Schematic for `check`: where events go, the types of the traits, and the two clocks.

No event is sent: `capture_url` gets an empty batch, and its answer is read as a delivery would read it. That finds a
host that cannot be Schematic. Whether the key may send events shows at the first delivery.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from audience_sync.core.model import Severity, TraitType
from audience_sync.core.text import short_duration
from audience_sync.destinations.destination_protocol import Diagnosis
from audience_sync.destinations.outcomes import (
    BatchRejected,
    HttpAnswer,
    RefusedKey,
    RetryLater,
    WrongDestination,
    describe,
    http_date,
    is_html,
)
from audience_sync.destinations.schematic.schematic_outcomes import classify, is_schematic_error

SKEW: Final = timedelta(minutes=5)
PAGE, PAGES = 100, 20  # trait definitions asked for at a time, and how often at most

EMPTY_BATCH: Final = b'{"events":[]}'
CAPTURE_HINT: Final = "set schematic.capture_url to https://c.schematichq.com, or to your proxy for it"
UNCHECKED: Final = (
    "not checked: whether this URL is Schematic and whether the key can send events; the first delivery will show"
)


def of_capture(url: str, answer: HttpAnswer, *, has_key: bool, now: datetime) -> Diagnosis:
    """Return whether a host takes batches of events, as far as its answer to an empty one tells."""
    if answer.status == 0:
        hint = "check the network, any proxy, and schematic.capture_url"
        return Diagnosis(Severity.ERROR, url, answer.text, hint)
    said = describe(answer)
    outcome = classify(answer, now=now)
    if isinstance(outcome, WrongDestination) or is_html(answer):
        wrong = f"is not Schematic's event capture API: POST /batch returned {said}"
        return Diagnosis(Severity.ERROR, url, wrong, CAPTURE_HINT)
    if isinstance(outcome, RetryLater):
        unknown = f"could not be checked: POST /batch returned {said}"
        return Diagnosis(Severity.WARNING, url, unknown, "check again later")
    if isinstance(outcome, BatchRejected) and not is_schematic_error(answer):
        strange = (
            f"might not be Schematic's event capture API: POST /batch returned {said}, not a JSON object with the"
            " field `error`"
        )
        return Diagnosis(Severity.WARNING, url, strange, CAPTURE_HINT)
    if isinstance(outcome, RefusedKey) and has_key:
        refused = f"rejects an empty batch with this API key: POST /batch returned {said}"
        return Diagnosis(Severity.WARNING, url, refused, "use a secret key that may send events")
    return Diagnosis(Severity.OK, url, f"reachable, and responds to POST /batch; {UNCHECKED}")


def definitions(answer: HttpAnswer) -> list[tuple[str, str]] | None:
    """Return the name and type of each definition of a page; None if the answer is not such a page."""
    try:
        data: Any = orjson.loads(answer.text)["data"] if answer.status == 200 else None
        return [(".".join(one["hierarchy"]), str(one["trait_type"])) for one in data]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def unreadable_types(answer: HttpAnswer) -> Diagnosis:
    """Return that the key cannot read trait definitions."""
    sentence = f"trait types could not be read: {describe(answer)}"
    return Diagnosis(Severity.WARNING, "*", sentence, "syncs work without them", is_about_trait=True)


def of_types(found: list[tuple[str, str]], types: Mapping[str, TraitType | None]) -> Iterator[Diagnosis]:
    """Yield the traits that Schematic knows with another type than that of the configuration."""
    for trait, kind in found:
        ours = types.get(trait)
        if ours is not None and kind != ours:
            yield Diagnosis(
                Severity.WARNING,
                trait,
                f"has the type {kind} in Schematic, not {ours}; it is sent anyway, but rules may not match its values",
                "change its type in Schematic, or give the audience another key",
                is_about_trait=True,
            )


def of_clock(url: str, answer: HttpAnswer, now: datetime) -> Iterator[Diagnosis]:
    """Yield by how much the two clocks differ, if that is a lot."""
    theirs = http_date(answer.headers.get("date"))
    if theirs is None:
        return
    ahead = now - theirs
    if abs(ahead) > SKEW:
        off = short_duration(timedelta(minutes=round(abs(ahead) / timedelta(minutes=1))))
        where = "ahead of" if ahead > timedelta() else "behind"
        yield Diagnosis(
            Severity.WARNING,
            url,
            f"this machine's clock is {off} {where} Schematic's",
            "set the clock, for example with `timedatectl set-ntp true`: `:now` and the times of events depend on it",
        )
