"""Schematic's wire format: ``{api_key, type, body, idempotency_key, sent_at}``, at most 100 in ``{"events": […]}``.

It is that of Schematic's own clients (schematic-python ``event_capture.py``). Events are kept and stored without the
API key; `batch_body` adds it when they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

DISPLAY_NAME: Final = "Schematic"
"""Its name in sentences, and in the `integrations` object of Segment events."""


def with_idempotency_key(body: str, key: str) -> str:
    """Return the JSON text of one event with its idempotency key at the end."""
    return f'{body[:-1]},"idempotency_key":"{key}"}}'


def batch_body(bodies: Iterable[str], *, api_key: str) -> bytes:
    """Return the body of ``POST /batch``: events, each with the API key."""
    start = _start(api_key).decode()
    return f'{{"events":[{",".join([start + body[1:] for body in bodies])}]}}'.encode()


def with_key(body: str, *, api_key: str) -> str:
    """Return the JSON text of one event as it is posted, with the API key in front."""
    return _start(api_key).decode() + body[1:]


def _start(api_key: str) -> bytes:
    return b'{"api_key":' + orjson.dumps(api_key) + b","
