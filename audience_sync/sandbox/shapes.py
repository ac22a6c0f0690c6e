"""Rows of the ledger in the shape of Schematic's API: every field that Schematic's own clients insist on is here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.sandbox.ledger import Ledger, Row
from audience_sync.sandbox.state import Settings
from audience_sync.sandbox.stored import StoredEvent

_BORN: Final = "2026-01-01T00:00:00.000Z"  # when the environment and its key definitions were made


def environment(settings: Settings) -> dict[str, Json]:
    """Return the sandbox's only environment."""
    return {
        "id": settings.environment_id,
        "name": settings.environment_name,
        "environment_type": settings.environment_type,
        "require_context_signature": False,
        "created_at": _BORN,
        "updated_at": _BORN,
    }


def account(settings: Settings) -> dict[str, Json]:
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
