"""Schematic: the key and its environment, where events go, the types of the traits, and the two clocks.

No event is sent: `capture_url` is asked with an empty batch, and its answer is read as a delivery would read it. That
finds a host that cannot be Schematic. Whether the key may send events shows at the first delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr

from audience_sync.checks.check_database import attempt
from audience_sync.checks.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Address, Settings, resolve_api_key
from audience_sync.core.model import TraitType
from audience_sync.destinations.http_connection import trusted_authorities
from audience_sync.destinations.schematic.client import Schematic
from audience_sync.destinations.schematic.outcomes import (
    Answer,
    Later,
    RefusedKey,
    Rejected,
    WrongDestination,
    classify,
    describe,
    is_html,
    is_schematic_error,
)
from audience_sync.errors import ConfigError, DestinationAway, DestinationError
from audience_sync.store import generations
from audience_sync.store.database import Database

CHECK: Final = "schematic"
SKEW: Final = timedelta(minutes=5)
PAGE, PAGES = 100, 20  # trait definitions asked for at a time, and how often at most

EMPTY_BATCH: Final = b'{"events":[]}'
CAPTURE_HINT: Final = "set schematic.capture_url to https://c.schematichq.com, or to your proxy of it"
UNCHECKED: Final = "not checked: that it is Schematic, and that the key may send events; the first delivery shows both"

_NO_KEY: Final = SecretStr("none")


def look(
    settings: Settings, environ: Mapping[str, str], *, database: Database | None, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """Yield how Schematic stands; without a key only whether it can be reached."""
    key = None
    try:
        key = resolve_api_key(settings.schematic, environ)
    except ConfigError as raised:
        yield error(CHECK, "api_key", raised)
    with closing(Schematic(settings.schematic, key or _NO_KEY, tls=trusted_authorities())) as schematic:
        capture = settings.schematic.capture_url
        yield _takes_batches(capture, schematic.post_batch(EMPTY_BATCH), has_key=key is not None, now=now())
        yield from _unencrypted(settings)
        if key is None:
            return
        try:
            told = schematic.environment()
            yield _environment(settings, told, database)
        except EXPECTED as raised:
            yield error(CHECK, settings.schematic.api_url, raised)
            return
        yield from _definitions(settings, schematic, now)


def _takes_batches(url: str, answer: Answer, *, has_key: bool, now: datetime) -> Finding:
    """Return whether a host takes batches of events, as far as its answer to an empty one tells."""
    if answer.status == 0:
        away = DestinationAway(answer.text, hint="check the network, a proxy, and schematic.capture_url")
        return error(CHECK, url, away)
    said = describe(answer)
    outcome = classify(answer, now=now)
    if isinstance(outcome, WrongDestination) or is_html(answer):
        wrong = f"is not Schematic's event capture: POST /batch returned {said}"
        return error(CHECK, url, DestinationError(wrong, hint=CAPTURE_HINT))
    if isinstance(outcome, Later):
        return warning(CHECK, url, f"could not be checked: POST /batch returned {said}", remedy="check again later")
    if isinstance(outcome, Rejected) and not is_schematic_error(answer):
        strange = f"may not be Schematic's event capture: POST /batch returned {said}, not a JSON object with `error`"
        return warning(CHECK, url, strange, remedy=CAPTURE_HINT)
    if isinstance(outcome, RefusedKey) and has_key:
        refused = f"rejects an empty batch with this API key: POST /batch returned {said}"
        return warning(CHECK, url, refused, remedy="use a secret key that may send events")
    return ok(CHECK, url, f"reachable, and answers POST /batch; {UNCHECKED}")


def _unencrypted(settings: Settings) -> Iterator[Finding]:
    for name, url in (("capture_url", settings.schematic.capture_url), ("api_url", settings.schematic.api_url)):
        parts = urlsplit(url)
        if parts.scheme == "http" and not Address(parts.hostname or "", 0).is_loopback:
            yield warning(
                CHECK,
                url,
                "is not encrypted: anyone on the network path can read the API key",
                remedy=f"use https:// in schematic.{name}",
            )


def _environment(settings: Settings, told: str | None, database: Database | None) -> Finding:
    """Return whose key it is; refused if the database belongs to another environment."""
    label = settings.schematic.environment
    url = settings.schematic.api_url
    if database is not None:
        attempt(database, lambda connection: generations.bind_environment(connection, told, label=label))
    if told is not None:
        return ok(CHECK, url, f"API key accepted; it belongs to the environment {told}")
    counts = f"the label {label!r} from schematic.environment is used" if label else "no environment is compared"
    return ok(CHECK, url, f"API key accepted, but it cannot read its environment: {counts}")


def _definitions(settings: Settings, schematic: Schematic, now: Callable[[], datetime]) -> Iterator[Finding]:
    """Yield the traits that Schematic knows with another type, and whether the clocks agree."""
    url = f"{settings.schematic.api_url}/entity-trait-definitions?entity_type=user&limit={PAGE}"
    wanted = {audience.key: audience.declared_type for audience in settings.audiences if audience.enabled}
    for page in range(PAGES):
        answer = schematic.get(f"{url}&offset={page * PAGE}")
        if page == 0:
            yield from _clock(settings, answer, now())
        found = _listed(answer)
        if found is None:
            yield warning(
                "trait",
                "*",
                f"the types of traits could not be read: {describe(answer)}",
                remedy="a sync works without them",
            )
            return
        for trait, kind in found:
            ours = wanted.get(trait)
            if ours is not None and kind != ours:
                yield _other_type(trait, kind, ours=ours)
        if len(found) < PAGE:
            return


def _listed(answer: Answer) -> list[tuple[str, str]] | None:
    """Return the name and type of each definition of a page; None when it is no such page."""
    try:
        data: Any = orjson.loads(answer.text)["data"] if answer.status == 200 else None
        return [(".".join(one["hierarchy"]), str(one["trait_type"])) for one in data]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _other_type(trait: str, kind: str, *, ours: TraitType) -> Finding:
    return warning(
        "trait",
        trait,
        f"is known to Schematic as {kind}, not {ours}; it is sent anyway, but rules may not match its values",
        remedy="change its type in Schematic, or give the audience another key",
    )


def _clock(settings: Settings, answer: Answer, now: datetime) -> Iterator[Finding]:
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", "")).astimezone(UTC)
    except (TypeError, ValueError):
        return
    ahead = now - theirs
    if abs(ahead) > SKEW:
        minutes = round(abs(ahead) / timedelta(minutes=1))
        where = "ahead of" if ahead > timedelta() else "behind"
        yield warning(
            CHECK,
            settings.schematic.api_url,
            f"this machine's clock is {minutes:,} minutes {where} Schematic's",
            remedy="set it, as with `timedatectl set-ntp true`: :now and the times of events come from it",
        )
