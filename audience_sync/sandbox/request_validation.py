"""The shape of what is posted to Schematic: one bad event refuses its whole request, and the answer names the place.

Optional fields may be null, fields nobody knows are ignored. What an event *does* is not judged here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from audience_sync.core import exact_json
from audience_sync.core.model import Json

EVENT_TYPES: Final = ("identify", "track", "flag_check", "inference")
ENTITY_TYPES: Final = ("user", "company")
TRAIT_TYPES: Final = ("boolean", "currency", "date", "number", "string", "url")

MAX_NAME = 255  # characters of a trait name and of an idempotency key
MAX_TRAIT = 1024  # characters of a trait's value, written as text
MAX_KEYS = 100  # keys of one entity

_EVENT_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Malformed(ValueError):
    """What was posted does not have Schematic's shape; the message begins with the place."""


class Event(NamedTuple):
    """One event whose shape is right, without the API key."""

    type: str
    body: Mapping[str, Json]
    idempotency_key: str | None = None
    sent_at: str | None = None
    backfill: bool = False


class Definition(NamedTuple):
    """A trait and its type, as asked of POST /entity-trait-definitions."""

    entity_type: str
    hierarchy: Sequence[str]
    trait_type: str
    display_name: str


def parse(body: bytes) -> dict[str, Json]:
    """Return the JSON object in `body`; raise `Malformed` for anything else."""
    try:
        value = exact_json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"body: not JSON: {error}") from None
    return _object(value, "body")


def event(value: Json, place: str) -> Event:
    """Return the event in `value`; raise `Malformed` with the place, which begins with `place`."""
    envelope = _object(value, place)
    kind = _one_of(envelope.get("type"), EVENT_TYPES, f"{place}.type")
    body = _object(envelope.get("body"), f"{place}.body")
    if kind == "identify":
        _check_identify(body, f"{place}.body")
    elif kind == "track":
        _check_track(body, f"{place}.body")
    idempotency_key = envelope.get("idempotency_key")
    if idempotency_key is not None:
        idempotency_key = _text(idempotency_key, f"{place}.idempotency_key", MAX_NAME)
    sent_at = envelope.get("sent_at")
    if sent_at is not None:
        sent_at = _instant(sent_at, f"{place}.sent_at")
    trusted = _flag(envelope.get("trusted_client_clock"), f"{place}.trusted_client_clock")
    backfill = _flag(envelope.get("backfill"), f"{place}.backfill")
    if trusted and sent_at is None:
        raise Malformed(f"{place}.trusted_client_clock: needs sent_at")
    if backfill and not trusted:
        raise Malformed(f"{place}.backfill: needs trusted_client_clock")
    # A key put in the wrong place must not reach the ledger either.
    kept = {name: field for name, field in body.items() if name != "api_key"}
    return Event(kind, kept, idempotency_key, sent_at, backfill)


def definition(value: Mapping[str, Json]) -> Definition:
    """Return the trait definition in the posted object; raise `Malformed` with the place."""
    entity_type = _one_of(value.get("entity_type"), ENTITY_TYPES, "entity_type")
    trait_type = _one_of(value.get("trait_type"), TRAIT_TYPES, "trait_type")
    path = value.get("hierarchy")
    if not isinstance(path, list) or not path:
        raise Malformed("hierarchy: must be a list that is not empty")
    hierarchy = [_text(name, f"hierarchy[{index}]", MAX_NAME) for index, name in enumerate(path)]
    display_name = value.get("display_name")
    shown = ".".join(hierarchy) if display_name is None else _text(display_name, "display_name", MAX_NAME)
    return Definition(entity_type, hierarchy, trait_type, shown)


def _check_identify(body: Mapping[str, Json], place: str) -> None:
    _check_entity(body, place)
    company = body.get("company")
    if company is not None:
        _check_entity(_object(company, f"{place}.company"), f"{place}.company")


def _check_entity(value: Mapping[str, Json], place: str) -> None:
    _check_keys(value.get("keys"), f"{place}.keys")
    if value.get("name") is not None and not isinstance(value["name"], str):
        raise Malformed(f"{place}.name: must be a string")
    _check_traits(value.get("traits"), f"{place}.traits")


def _check_track(body: Mapping[str, Json], place: str) -> None:
    name = body.get("event")
    if not isinstance(name, str) or not _EVENT_NAME.fullmatch(name):
        raise Malformed(f"{place}.event: must be a string of letters, digits, - and _")
    for entity in ("user", "company"):
        if body.get(entity) is not None:
            _check_keys(body[entity], f"{place}.{entity}")
    _check_traits(body.get("traits"), f"{place}.traits")


def _check_keys(value: Json, place: str) -> None:
    keys = _object(value, place)
    if not keys:
        raise Malformed(f"{place}: must have at least one key")
    if len(keys) > MAX_KEYS:
        raise Malformed(f"{place}: at most {MAX_KEYS} keys")
    for name, key in keys.items():
        if not name:
            raise Malformed(f"{place}: a key needs a name")
        if not isinstance(key, str) or not key:
            raise Malformed(f"{place}.{name}: must be a string that is not empty")


def _check_traits(value: Json, place: str) -> None:
    if value is None:
        return
    for name, trait in _object(value, place).items():
        if not name:
            raise Malformed(f"{place}: a trait needs a name")
        if len(name) > MAX_NAME:
            raise Malformed(f"{place}.{name}: a trait's name has at most {MAX_NAME} characters")
        if isinstance(trait, (str, list, dict, int)) and len(_as_text(trait)) > MAX_TRAIT:
            raise Malformed(f"{place}.{name}: a trait's value has at most {MAX_TRAIT} characters")


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else exact_json.dumps(value).decode()


def _object(value: Json, place: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise Malformed(f"{place}: must be an object")
    return value


def _text(value: Json, place: str, most: int) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= most:
        raise Malformed(f"{place}: must be a string of 1 to {most} characters")
    return value


def _flag(value: Json, place: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise Malformed(f"{place}: must be true or false")
    return bool(value)


def _one_of(value: Json, known: Sequence[str], place: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise Malformed(f"{place}: must be one of {', '.join(known)}")
    return value


def _instant(value: Json, place: str) -> str:
    try:
        # Schematic reads RFC 3339: an instant without a zone is no instant.
        if isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None:
            return value
    except ValueError:
        pass
    raise Malformed(f"{place}: must be an ISO 8601 instant with a zone")
