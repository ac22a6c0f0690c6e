"""Event capture: POST /batch and POST /e, and the shape of what is posted to Schematic.

A request is taken whole or not at all: one bad event refuses it, and the response names the place. Taken does not mean
applied: what an event does is not judged here. Optional fields may be null, unknown fields are ignored.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.sandbox.entities import PostedEvent, TraitDefinition
from audience_sync.sandbox.http_server import Request, SandboxResponse, error_response, json_response
from audience_sync.sandbox.ledger import Ledger

CAPTURE_PATHS: Final = ("/batch", "/e")
EVENT_TYPES: Final = ("identify", "track", "flag_check", "inference")
ENTITY_TYPES: Final = ("user", "company")
TRAIT_TYPES: Final = ("boolean", "currency", "date", "number", "string", "url")

MAX_NAME = 255  # characters of a trait name and of an idempotency key
MAX_TRAIT = 1024  # characters of a trait's value, written as text
MAX_KEYS = 100  # keys of one entity

_EVENT_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BEARER: Final = "Bearer "


class Malformed(ValueError):
    """A request does not have Schematic's shape; the message begins with the place."""


class AcceptedKeys:
    """The API keys accepted now; safe to change and to ask from any thread."""

    def __init__(self, accepted: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._accepted = frozenset(accepted)

    def revoke(self, *keys: str) -> None:
        """Accept these no more."""
        with self._lock:
            self._accepted -= frozenset(keys)

    def restore(self, *keys: str) -> None:
        """Accept these from now on, whether they were known before or not."""
        with self._lock:
            self._accepted |= frozenset(keys)

    def accept(self, key: object) -> bool:
        """Return whether `key` is good now."""
        return key in self._accepted


def capture(request: Request, ledger: Ledger, *, keys: AcceptedKeys, batch_limit: int) -> SandboxResponse:
    """Take the events of a POST to /batch or /e and answer; what is refused is recorded as a request only."""
    posted: list[Json] = []
    try:
        document = parse_object(request.body)
        posted, places = _events(document, request.path)
        refused = _refused(posted, request, keys=keys, batch_limit=batch_limit)
        if refused is None:
            events = [_event(one, place) for one, place in zip(posted, places, strict=True)]
            ledger.accept(events, path=request.path, fault=request.fault)
            return json_response({"accepted": len(events)})
    except Malformed as error:
        refused = error_response(400, str(error))
    ledger.record(request.path, refused.status, events=len(posted), fault=request.fault)
    return refused


def count(request: Request) -> int:
    """Return how many events a capture request carries; 0 when that cannot be told."""
    try:
        posted, _ = _events(parse_object(request.body), request.path)
    except Malformed:
        return 0
    return len(posted)


def _events(document: dict[str, Json], path: str) -> tuple[list[Json], list[str]]:
    if path == "/e":
        return [document], ["event"]
    events = document.get("events")
    if not isinstance(events, list):
        raise Malformed("events: must be a list")
    return events, [f"events[{index}]" for index in range(len(events))]


def _refused(posted: list[Json], request: Request, *, keys: AcceptedKeys, batch_limit: int) -> SandboxResponse | None:
    if not _are_authorized(keys, posted, request.headers):
        return error_response(401, "the API key is missing or invalid")
    if len(posted) > batch_limit:
        return error_response(400, "batch too large", max_size=batch_limit)
    return None


def _are_authorized(keys: AcceptedKeys, posted: list[Json], headers: Mapping[str, str]) -> bool:
    """Return whether every key that is given is good, and every event is covered by one."""
    bearer = headers.get("authorization", "")
    given: list[Json] = [headers["x-schematic-api-key"]] if "x-schematic-api-key" in headers else []
    given += [bearer.removeprefix(_BEARER)] if bearer.startswith(_BEARER) else []
    inside = [_mapping(event).get("api_key") for event in posted]
    covered = bool(given) or (bool(inside) and all(key is not None for key in inside))
    return covered and all(isinstance(key, str) and keys.accept(key) for key in [*given, *inside] if key is not None)


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def parse_object(body: bytes) -> dict[str, Json]:
    """Return the JSON object in `body`; raise `Malformed` for anything else."""
    try:
        value = exact_json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"body: not JSON: {error}") from None
    return _object(value, "body")


def _event(value: Json, place: str) -> PostedEvent:
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
    return PostedEvent(kind, kept, idempotency_key, sent_at, backfill)


def parse_definition(value: Mapping[str, Json]) -> TraitDefinition:
    """Return the trait definition in the posted object; raise `Malformed` with the place."""
    entity_type = _one_of(value.get("entity_type"), ENTITY_TYPES, "entity_type")
    trait_type = _one_of(value.get("trait_type"), TRAIT_TYPES, "trait_type")
    path = value.get("hierarchy")
    if not isinstance(path, list) or not path:
        raise Malformed("hierarchy: must be a non-empty list")
    hierarchy = [_text(name, f"hierarchy[{index}]", MAX_NAME) for index, name in enumerate(path)]
    display_name = value.get("display_name")
    shown = ".".join(hierarchy) if display_name is None else _text(display_name, "display_name", MAX_NAME)
    return TraitDefinition(entity_type, hierarchy, trait_type, shown)


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
            raise Malformed(f"{place}: key names must not be empty")
        if not isinstance(key, str) or not key:
            raise Malformed(f"{place}.{name}: must be a non-empty string")


def _check_traits(value: Json, place: str) -> None:
    if value is None:
        return
    for name, trait in _object(value, place).items():
        if not name:
            raise Malformed(f"{place}: trait names must not be empty")
        if len(name) > MAX_NAME:
            raise Malformed(f"{place}.{name}: trait names must be at most {MAX_NAME} characters")
        if isinstance(trait, (str, list, dict, int)) and len(_as_text(trait)) > MAX_TRAIT:
            raise Malformed(f"{place}.{name}: trait values must be at most {MAX_TRAIT} characters")


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
        # Schematic reads RFC 3339: an instant without a zone is not valid.
        if isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None:
            return value
    except ValueError:
        pass
    raise Malformed(f"{place}: must be an ISO 8601 time with a UTC offset")
