"""Event capture: POST /batch and POST /e. A request is taken whole or not at all; taken does not mean applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.sandbox import request_validation
from audience_sync.sandbox.http_server import Answer, Request, answer, refusal
from audience_sync.sandbox.request_validation import Malformed
from audience_sync.sandbox.sandbox_state import Keys, State

_BEARER: Final = "Bearer "


def capture(state: State, request: Request) -> Answer:
    """Take the events of a POST to /batch or /e and answer; what is refused is recorded as a request only."""
    posted: list[Json] = []
    try:
        document = request_validation.parse(request.body)
        posted, places = _events(document, request.path)
        refused = _refused(state, posted, request)
        if refused is None:
            events = [request_validation.event(one, place) for one, place in zip(posted, places, strict=True)]
            state.ledger.accept(events, path=request.path, fault=request.fault)
            return answer({"accepted": len(events)})
    except Malformed as error:
        refused = refusal(400, str(error))
    state.ledger.record(request.path, refused.status, events=len(posted), fault=request.fault)
    return refused


def user_keys(body: bytes) -> frozenset[str]:
    """Return every user key value in a capture request, whatever else is wrong with it."""
    try:
        document = exact_json.loads(body)
    except (ValueError, RecursionError):
        return frozenset()
    several = _mapping(document).get("events")
    bodies = [_mapping(_mapping(one).get("body")) for one in (several if isinstance(several, list) else [document])]
    keys = [_mapping(body.get(place)) for body in bodies for place in ("keys", "user")]
    return frozenset(value for named in keys for value in named.values() if isinstance(value, str))


def count(request: Request) -> int:
    """Return how many events a capture request carries; 0 when that cannot be told."""
    try:
        posted, _ = _events(request_validation.parse(request.body), request.path)
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


def _refused(state: State, posted: list[Json], request: Request) -> Answer | None:
    if not _are_authorized(state.keys, posted, request.headers):
        return refusal(401, "the API key is missing or not accepted")
    limit = state.settings.batch_limit
    if len(posted) > limit:
        return refusal(400, "batch too large", max_size=limit)
    return None


def _are_authorized(keys: Keys, posted: list[Json], headers: Mapping[str, str]) -> bool:
    """Return whether every key that is given is good, and every event is covered by one."""
    bearer = headers.get("authorization", "")
    given: list[Json] = [headers["x-schematic-api-key"]] if "x-schematic-api-key" in headers else []
    given += [bearer.removeprefix(_BEARER)] if bearer.startswith(_BEARER) else []
    inside = [_mapping(event).get("api_key") for event in posted]
    covered = bool(given) or (bool(inside) and all(key is not None for key in inside))
    return covered and all(isinstance(key, str) and keys.accept(key) for key in [*given, *inside] if key is not None)


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}
