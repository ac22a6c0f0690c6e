"""The round of a taker: from one profile to the next, past those that are held, and around."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, cast

from sqlalchemy.engine import Connection

from audience_sync.delivery.take import PendingQueue, _Page

NO_CONNECTION = cast("Connection", None)


def test_only_held_profiles_ahead_are_passed_on() -> None:
    """Those behind the place that is reached cannot come any more in this round; in the next one they can."""
    keys = ["a", "b", "é", "\uffff", "🙂"]
    seen: list[tuple[str, Set[str]]] = []
    pages = iter([_Page([], keys[2], 1), _Page([], None, 0), _Page([], keys[0], 1)])

    def turn(_connection: Connection, after: str, held: Set[str], _limit: int) -> Any:
        seen.append((after, held))
        return next(pages)

    queue = PendingQueue(turn)
    for _ in range(2):
        queue.next(NO_CONNECTION, set(keys), 10)

    assert seen == [("", set(keys)), (keys[2], set(keys[3:])), ("", set(keys))]
