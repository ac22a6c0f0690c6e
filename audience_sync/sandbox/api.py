"""The part of Schematic's REST API that reads back: who am I, environments, users, events, trait definitions.

A parameter the sandbox does not understand is refused: to ignore it would answer another question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from audience_sync.core.model import Json
from audience_sync.sandbox import shapes, validation
from audience_sync.sandbox.state import State
from audience_sync.sandbox.stored import EventFilter
from audience_sync.sandbox.validation import Malformed
from audience_sync.sandbox.wire import Answer, Request, answer, refusal

Parameters = Mapping[str, Sequence[str]]

_PAGING: Final = frozenset({"limit", "offset"})
_MOST = 250  # of one page
_USUAL = 100


def api(state: State, request: Request) -> Answer:
    """Answer a request to the REST API and record it."""
    answered = _answer(state, request)
    state.ledger.record(request.path, answered.status, fault=request.fault)
    return answered


def _answer(state: State, request: Request) -> Answer:
    if not state.keys.accept(request.headers.get("x-schematic-api-key")):
        return refusal(401, "the API key is missing or not accepted")
    serve = _ROUTES.get((request.method, request.path))
    if serve is None:
        known = any(path == request.path for _, path in _ROUTES)
        return refusal(405, "method not allowed") if known else refusal(404, "not found")
    try:
        return serve(state, request)
    except Malformed as error:
        return refusal(400, str(error))


def _whoami(state: State, request: Request) -> Answer:
    _parameters(request, frozenset())
    return _envelope(shapes.account(state.settings), {})


def _environments(state: State, request: Request) -> Answer:
    asked = _parameters(request, _PAGING)
    limit, offset = _page(asked)
    everything: list[Json] = [shapes.environment(state.settings)]
    return _envelope(everything[offset : offset + limit], {"limit": limit, "offset": offset})


def _lookup_user(state: State, request: Request) -> Answer:
    pairs = parse_qsl(request.query, keep_blank_values=True)
    keys = {name[5:-1]: value for name, value in pairs if name.startswith("keys[") and name.endswith("]")}
    if not keys or len(keys) != len(pairs):
        raise Malformed("keys: must be given as keys[NAME]=VALUE, and nothing else")
    found = state.ledger.find_users(keys)
    if len(found) > 1:
        raise Malformed(f"keys: match {len(found)} users")
    rows = [row for one in found for row in state.ledger.read("SELECT * FROM users WHERE id = ?", (one,))]
    if not rows:
        return refusal(404, "user not found")
    return _envelope(shapes.users(state.ledger, rows, state.settings.environment_id)[0], {"keys": dict(keys)})


def _users(state: State, request: Request) -> Answer:
    limit, offset = _page(_parameters(request, _PAGING))
    rows = state.ledger.read("SELECT * FROM users ORDER BY id LIMIT ? OFFSET ?", (limit, offset))
    found = shapes.users(state.ledger, rows, state.settings.environment_id)
    return _envelope(found, {"limit": limit, "offset": offset})


def _events(state: State, request: Request) -> Answer:
    filters = frozenset({"idempotency_key", "event_types", "event_subtype", "user_id", "company_id"})
    asked = _parameters(request, filters | _PAGING)
    limit, offset = _page(asked)
    wanted = EventFilter(
        idempotency_key=_one(asked, "idempotency_key"),
        types=asked.get("event_types"),
        statuses=("processed", "failed"),  # Schematic keeps no trace of what it dropped as a duplicate
        subtype=_one(asked, "event_subtype"),
        user_id=_number(_one(asked, "user_id"), "user_"),
        company_id=_number(_one(asked, "company_id"), "comp_"),
    )
    found = state.ledger.events(wanted, newest_first=True, limit=limit, offset=offset)
    return _envelope([shapes.event(one) for one in found], {"limit": limit, "offset": offset})


def _definitions(state: State, request: Request) -> Answer:
    asked = _parameters(request, frozenset({"entity_type", "trait_type", "q"}) | _PAGING)
    limit, offset = _page(asked)
    entity_type, trait_type, text = _one(asked, "entity_type"), _one(asked, "trait_type"), _one(asked, "q")
    rows = state.ledger.read(
        "SELECT * FROM trait_definitions WHERE (?1 = '' OR entity_type = ?1) AND (?2 = '' OR trait_type = ?2)"
        " AND (instr(hierarchy, ?3) OR instr(display_name, ?3)) ORDER BY id LIMIT ?4 OFFSET ?5",
        (entity_type or "", trait_type or "", text or "", limit, offset),
    )
    return _envelope([shapes.definition(row) for row in rows], {"limit": limit, "offset": offset})


def _define(state: State, request: Request) -> Answer:
    wanted = validation.definition(validation.parse(request.body))
    number = state.ledger.define(wanted)
    (row,) = state.ledger.read("SELECT * FROM trait_definitions WHERE id = ?", (number,))
    return _envelope(shapes.definition(row), {})


_ROUTES: Final[Mapping[tuple[str, str], Callable[[State, Request], Answer]]] = {
    ("GET", "/whoami"): _whoami,
    ("GET", "/environments"): _environments,
    ("GET", "/users"): _users,
    ("GET", "/users/lookup"): _lookup_user,
    ("GET", "/events"): _events,
    ("GET", "/entity-trait-definitions"): _definitions,
    ("POST", "/entity-trait-definitions"): _define,
}


def _envelope(data: Json, params: Json) -> Answer:
    return answer({"data": data, "params": params})


def _parameters(request: Request, known: frozenset[str]) -> Parameters:
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        if name not in known:
            raise Malformed(f"{name}: not a parameter the sandbox knows here")
        given.setdefault(name, []).append(value)
    return given


def _page(asked: Parameters) -> tuple[int, int]:
    limit, offset = _one(asked, "limit") or str(_USUAL), _one(asked, "offset") or "0"
    if not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
        raise Malformed(f"limit: must be 1 to {_MOST}")
    if not offset.isdecimal():
        raise Malformed("offset: must be a number")
    return int(limit), int(offset)


def _one(asked: Parameters, name: str) -> str | None:
    values = asked.get(name)
    return values[-1] if values else None


def _number(identifier: str | None, prefix: str) -> int | None:
    if identifier is None:
        return None
    digits = identifier.removeprefix(prefix)
    return int(digits) if digits.isdecimal() else -1  # nothing has the id -1
