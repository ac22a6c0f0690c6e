"""Outcomes of a batch by Schematic's own rules."""

from __future__ import annotations

from datetime import datetime

import orjson

from audience_sync.destinations import outcomes
from audience_sync.destinations.outcomes import BatchTooLarge, HttpAnswer, Outcome, error_text


def classify(answer: HttpAnswer, *, now: datetime) -> Outcome:
    """Return what an answer to ``POST /batch`` means; Schematic also refuses the size of a batch with 400."""
    is_too_large = answer.status == 413 or "batch too large" in answer.text
    too_large = BatchTooLarge(_max_size(answer.text)) if is_too_large else None
    return outcomes.classify(answer, now=now, too_large=too_large)


def is_schematic_error(answer: HttpAnswer) -> bool:
    """Return whether a refusal has the shape of Schematic's: a JSON object with the text `error`."""
    return error_text(answer.text) is not None


def _max_size(text: str) -> int | None:
    try:
        size = orjson.loads(text)["max_size"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return size if type(size) is int and size > 0 else None  # true is an int, too
