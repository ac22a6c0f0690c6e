"""The endpoints of the sandbox itself, under /sandbox/: faults, keys, held answers, statistics, starting over.

They need no key and are not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import orjson

from audience_sync.core.model import Json
from audience_sync.sandbox.faults import rule_of
from audience_sync.sandbox.http_server import Answer, Request, answer, refusal
from audience_sync.sandbox.request_validation import Malformed
from audience_sync.sandbox.sandbox_state import State

PREFIX: Final = "/sandbox/"


def control(state: State, request: Request) -> Answer:
    """Answer a request to one of the sandbox's own endpoints."""
    serve = _ROUTES.get((request.method, request.path.removeprefix(PREFIX)))
    if serve is None:
        return refusal(404, f"the sandbox has no {request.method} {request.path}")
    try:
        return answer(serve(state, orjson.loads(request.body or b"null")))
    except orjson.JSONDecodeError as error:
        return refusal(400, f"body: not JSON: {error}")
    except Malformed as error:
        return refusal(400, str(error))


def _rules(state: State, _: Json) -> Json:
    return {"rules": list(state.faults.described())}


def _set_rules(state: State, posted: Json) -> Json:
    if not isinstance(posted, list):
        raise Malformed("body: must be a list of fault rules")
    state.faults.set([rule_of(rule) for rule in posted])
    return _rules(state, None)


def _clear_rules(state: State, _: Json) -> Json:
    state.faults.clear()
    return _rules(state, None)


def _stats(state: State, _: Json) -> Json:
    return {**state.ledger.stats(), "held": state.gate.held}


def _reset(state: State, _: Json) -> Json:
    state.ledger.reset()
    return {}


def _set_keys(state: State, posted: Json) -> Json:
    if not isinstance(posted, dict):
        raise Malformed("body: must be an object")
    changes: dict[str, list[str]] = {}
    for name, keys in posted.items():
        if name not in {"revoke", "restore"} or not isinstance(keys, list):
            raise Malformed("body: must have revoke, restore or both, each a list of keys")
        changes[name] = [key for key in keys if isinstance(key, str)]
    state.keys.revoke(*changes.get("revoke", []))
    state.keys.restore(*changes.get("restore", []))
    return {}


def _release(state: State, _: Json) -> Json:
    return {"released": state.gate.release()}


_ROUTES: Final[Mapping[tuple[str, str], Callable[[State, Json], Json]]] = {
    ("GET", "faults"): _rules,
    ("POST", "faults"): _set_rules,
    ("DELETE", "faults"): _clear_rules,
    ("GET", "stats"): _stats,
    ("POST", "reset"): _reset,
    ("POST", "keys"): _set_keys,
    ("POST", "release"): _release,
}
