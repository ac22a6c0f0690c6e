"""The part of Schematic's REST API that reads back: who am I, environments, users, events, trait definitions.

A parameter the sandbox does not understand is refused: to ignore it would answer another question. Every field that
Schematic's own clients insist on is in the responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.sandbox.capture import AcceptedKeys, Malformed, parse_definition, parse_object
from audience_sync.sandbox.http_server import Request, SandboxResponse, error_response, json_response
from audience_sync.sandbox.ledger import EventFilter, Ledger, Row, StoredEvent

_BORN: Final = "2026-01-01T00:00:00.000Z"  # when the environment and its key definitions were made

Parameters = Mapping[str, Sequence[str]]

_PAGING: Final = frozenset({"limit", "offset"})
_MOST = 250  # of one page
_USUAL = 100


@dataclass(frozen=True, kw_only=True)
class SandboxSettings:
    """Which Schematic environment the sandbox stands for, and how many events a batch may have."""

    environment_id: str = "env_sandbox"
    environment_name: str = "Sandbox"
    environment_type: str = "development"  # or staging, production
    batch_limit: int = 100


class _Asked(NamedTuple):
    """A request, and what answers it."""

    request: Request
    ledger: Ledger
    settings: SandboxSettings


def api(request: Request, ledger: Ledger, *, keys: AcceptedKeys, settings: SandboxSettings) -> SandboxResponse:
    """Answer a request to the REST API and record it."""
    answered = _answer(_Asked(request, ledger, settings), keys)
    ledger.record(request.path, answered.status, fault=request.fault)
    return answered


def _answer(asked: _Asked, keys: AcceptedKeys) -> SandboxResponse:
    request = asked.request
    if not keys.accept(request.headers.get("x-schematic-api-key")):
        return error_response(401, "the API key is missing or invalid")
    serve = _ROUTES.get((request.method, request.path))
    if serve is None:
        known = any(path == request.path for _, path in _ROUTES)
        return error_response(405, "method not allowed") if known else error_response(404, "not found")
    try:
        return serve(asked)
    except Malformed as error:
        return error_response(400, str(error))


def _whoami(asked: _Asked) -> SandboxResponse:
    _parameters(asked.request, frozenset())
    return _envelope(account(asked.settings), {})


def _environments(asked: _Asked) -> SandboxResponse:
    parameters = _parameters(asked.request, _PAGING)
    limit, offset = _page(parameters)
    everything: list[Json] = [environment(asked.settings)]
    return _envelope(everything[offset : offset + limit], {"limit": limit, "offset": offset})


def _lookup_user(asked: _Asked) -> SandboxResponse:
    pairs = parse_qsl(asked.request.query, keep_blank_values=True)
    keys = {name[5:-1]: value for name, value in pairs if name.startswith("keys[") and name.endswith("]")}
    if not keys or len(keys) != len(pairs):
        raise Malformed("keys: must have the form keys[NAME]=VALUE")
    found = asked.ledger.find_users(keys)
    if len(found) > 1:
        raise Malformed(f"keys: match {len(found)} users")
    rows = [row for one in found for row in asked.ledger.read("SELECT * FROM users WHERE id = ?", (one,))]
    if not rows:
        return error_response(404, "user not found")
    return _envelope(users(asked.ledger, rows, asked.settings.environment_id)[0], {"keys": dict(keys)})


def _users(asked: _Asked) -> SandboxResponse:
    limit, offset = _page(_parameters(asked.request, _PAGING))
    rows = asked.ledger.read("SELECT * FROM users ORDER BY id LIMIT ? OFFSET ?", (limit, offset))
    found = users(asked.ledger, rows, asked.settings.environment_id)
    return _envelope(found, {"limit": limit, "offset": offset})


def _events(asked: _Asked) -> SandboxResponse:
    filters = frozenset({"idempotency_key", "event_types", "event_subtype", "user_id", "company_id"})
    parameters = _parameters(asked.request, filters | _PAGING)
    limit, offset = _page(parameters)
    wanted = EventFilter(
        idempotency_key=_one(parameters, "idempotency_key"),
        types=parameters.get("event_types"),
        statuses=("processed", "failed"),  # Schematic keeps no trace of what it dropped as a duplicate
        subtype=_one(parameters, "event_subtype"),
        user_id=_number(_one(parameters, "user_id"), "user_"),
        company_id=_number(_one(parameters, "company_id"), "comp_"),
    )
    found = asked.ledger.events(wanted, newest_first=True, limit=limit, offset=offset)
    return _envelope([event(one) for one in found], {"limit": limit, "offset": offset})


def _definitions(asked: _Asked) -> SandboxResponse:
    parameters = _parameters(asked.request, frozenset({"entity_type", "trait_type", "q"}) | _PAGING)
    limit, offset = _page(parameters)
    entity_type, trait_type, text = (_one(parameters, name) for name in ("entity_type", "trait_type", "q"))
    rows = asked.ledger.read(
        "SELECT * FROM trait_definitions WHERE (?1 = '' OR entity_type = ?1) AND (?2 = '' OR trait_type = ?2)"
        " AND (instr(hierarchy, ?3) OR instr(display_name, ?3)) ORDER BY id LIMIT ?4 OFFSET ?5",
        (entity_type or "", trait_type or "", text or "", limit, offset),
    )
    return _envelope([definition(row) for row in rows], {"limit": limit, "offset": offset})


def _define(asked: _Asked) -> SandboxResponse:
    wanted = parse_definition(parse_object(asked.request.body))
    number = asked.ledger.define(wanted)
    (row,) = asked.ledger.read("SELECT * FROM trait_definitions WHERE id = ?", (number,))
    return _envelope(definition(row), {})


_ROUTES: Final[Mapping[tuple[str, str], Callable[[_Asked], SandboxResponse]]] = {
    ("GET", "/whoami"): _whoami,
    ("GET", "/environments"): _environments,
    ("GET", "/users"): _users,
    ("GET", "/users/lookup"): _lookup_user,
    ("GET", "/events"): _events,
    ("GET", "/entity-trait-definitions"): _definitions,
    ("POST", "/entity-trait-definitions"): _define,
}


def _envelope(data: Json, params: Json) -> SandboxResponse:
    return json_response({"data": data, "params": params})


def _parameters(request: Request, known: frozenset[str]) -> Parameters:
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        if name not in known:
            raise Malformed(f"{name}: unknown parameter")
        given.setdefault(name, []).append(value)
    return given


def _page(parameters: Parameters) -> tuple[int, int]:
    limit, offset = _one(parameters, "limit") or str(_USUAL), _one(parameters, "offset") or "0"
    if not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
        raise Malformed(f"limit: must be 1 to {_MOST}")
    if not offset.isdecimal():
        raise Malformed("offset: must be a number")
    return int(limit), int(offset)


def _one(parameters: Parameters, name: str) -> str | None:
    values = parameters.get(name)
    return values[-1] if values else None


def _number(identifier: str | None, prefix: str) -> int | None:
    if identifier is None:
        return None
    digits = identifier.removeprefix(prefix)
    return int(digits) if digits.isdecimal() else -1  # nothing has the id -1


def environment(settings: SandboxSettings) -> dict[str, Json]:
    """Return the sandbox's only environment."""
    return {
        "id": settings.environment_id,
        "name": settings.environment_name,
        "environment_type": settings.environment_type,
        "require_context_signature": False,
        "created_at": _BORN,
        "updated_at": _BORN,
    }


def account(settings: SandboxSettings) -> dict[str, Json]:
    """Return what GET /whoami says of an API key."""
    return {
        "account_id": "acct_sandbox",
        "account_name": "Sandbox",
        "actor_type": "api_key",
        "api_key_id": "apik_sandbox",
        "environment_id": settings.environment_id,
        "environments": [environment(settings)],
        "onboarding_complete": True,
    }


def definition(row: Row) -> dict[str, Json]:
    """Return a trait definition from its row."""
    number, entity_type, hierarchy, trait_type, display_name, created_at = row
    return {
        "id": f"trtd_{number}",
        "entity_type": entity_type,
        "hierarchy": orjson.loads(hierarchy),
        "trait_type": trait_type,
        "display_name": display_name,
        "created_at": created_at,
        "updated_at": created_at,
    }


def users(ledger: Ledger, rows: Sequence[Row], environment_id: str) -> list[Json]:
    """Return users with their keys, traits and companies from their rows."""
    return [_user(ledger, row, environment_id) for row in rows]


def event(stored: StoredEvent) -> dict[str, Json]:
    """Return an event from its row."""
    return {
        "id": f"evnt_{stored.id}",
        "type": stored.type,
        "subtype": stored.subtype,
        "status": stored.status,
        "error_message": stored.error_message,
        "idempotency_key": stored.idempotency_key,
        "body": dict(stored.body),
        "body_preview": exact_json.dumps(stored.body).decode()[:100],
        "captured_at": stored.received_at,
        "processed_at": stored.received_at,
        "updated_at": stored.received_at,
        "sent_at": stored.sent_at,
        "environment_id": stored.environment_id,
        "user_id": f"user_{stored.user_id}" if stored.user_id else None,
        "company_id": f"comp_{stored.company_id}" if stored.company_id else None,
        "feature_ids": [],
        "features": [],
        "quantity": 1,
    }


def _user(ledger: Ledger, row: Row, environment_id: str) -> Json:
    number, name, created_at, updated_at, last_seen_at = row
    about = {"environment_id": environment_id}
    keys = ledger.read("SELECT name, value, created_at FROM user_keys WHERE user_id = ? ORDER BY name", (number,))
    traits = ledger.read(
        "SELECT t.name, t.value, t.created_at, t.updated_at, d.id FROM user_traits t"
        " LEFT JOIN trait_definitions d ON d.entity_type = 'user' AND d.hierarchy = json_array(t.name)"
        " WHERE t.user_id = ? ORDER BY t.name",
        (number,),
    )
    companies = ledger.read("SELECT company_id, created_at FROM company_memberships WHERE user_id = ?", (number,))
    return {
        **about,
        "id": f"user_{number}",
        "name": name,
        "created_at": created_at,
        "updated_at": updated_at,
        "last_seen_at": last_seen_at,
        "keys": [{**about, **_key(number, *key)} for key in keys],
        "traits": {trait: exact_json.loads(value) for trait, value, *_ in traits},
        "entity_traits": [{**about, **_trait(number, trait)} for trait in traits],
        "company_memberships": [_membership(number, *company) for company in companies],
    }


def _key(user: int, name: str, value: str, created_at: str) -> dict[str, Json]:
    times: dict[str, Json] = {"created_at": created_at, "updated_at": created_at}
    definition_id = f"ekey_{name}"
    described: Json = {
        "id": definition_id,
        "entity_type": "user",
        "key": name,
        "created_at": _BORN,
        "updated_at": _BORN,
    }
    return {
        **times,
        "id": f"enky_{user}_{name}",
        "definition": described,
        "definition_id": definition_id,
        "entity_id": f"user_{user}",
        "entity_type": "user",
        "key": name,
        "value": value,
    }


def _trait(user: int, row: Row) -> dict[str, Json]:
    name, text, created_at, updated_at, definition_id = row
    value = exact_json.loads(text)
    return {
        "id": f"entr_{user}_{name}",
        "definition_id": f"trtd_{definition_id}",
        "value": value if isinstance(value, str) else text,  # Schematic keeps every trait as text
        "created_at": created_at,
        "updated_at": updated_at,
    }


def _membership(user: int, company: int, created_at: str) -> Json:
    return {
        "id": f"cmpm_{user}_{company}",
        "user_id": f"user_{user}",
        "company_id": f"comp_{company}",
        "created_at": created_at,
        "updated_at": created_at,
    }
