"""What goes wrong on purpose: rules that make the sandbox refuse, stall, fail or fall silent, and the gate it waits at.

The rules are asked in order and the first that applies to a request decides what happens to it. Dice are seeded, so the
same requests meet the same faults.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Final

from audience_sync.core.model import Json
from audience_sync.sandbox.request_validation import Malformed

CAPTURE_PATHS: Final = ("/batch", "/e")

_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "path": str,
    "user_key": str,
    "rate": (int, float),
    "seed": int,
    "times": int,
    "status": int,
    "after": bool,
    "headers": dict,
    "body": object,
    "content_type": str,
    "delay": (int, float),
    "drop": bool,
    "cut": int,
    "refuse": bool,
    "hold": bool,
    "hold_before": bool,
}


@dataclass(frozen=True, kw_only=True)
class FaultRule:
    """When a fault happens (`path` to `times`) and what it is: one of the rest, or a `delay` in seconds, or both.

    `status` answers instead of the real work, or with `after` behind its back; `drop` does the work, then drops the
    connection; `cut` does it after so many bytes of the answer; `refuse` drops it before anything is taken; `hold` does
    the work and keeps the answer back until the gate is opened; `hold_before` waits at the gate first. Raises
    `Malformed` for a rule that can do nothing, or two things.
    """

    path: str | None = None  # None: every capture path
    user_key: str | None = None  # only requests that carry an event of the user with this key value
    rate: float = 1.0  # how probable it is, 0 to 1
    seed: int = 0
    times: int | None = None  # how often at most
    status: int | None = None
    after: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Json = None  # of the answer: text as it is, anything else as JSON; None: {"error": …}
    content_type: str | None = None  # None: text/html for text, else application/json
    delay: float = 0.0
    drop: bool = False
    cut: int | None = None
    refuse: bool = False
    hold: bool = False
    hold_before: bool = False

    def __post_init__(self) -> None:
        numbered = [self.status is not None, self.cut is not None]
        actions = [*numbered, self.drop, self.refuse, self.hold, self.hold_before]
        if sum(actions) > 1:
            raise Malformed("fault: only one of status, drop, cut, refuse, hold and hold_before")
        if not any(actions) and not self.delay:
            raise Malformed("fault: needs one of status, drop, cut, refuse, hold, hold_before and delay")
        if (self.after and self.status is None) or (self.cut is not None and self.cut < 0):
            raise Malformed("fault: after needs status, and cut must not be negative")
        if self.status is not None and not 200 <= self.status <= 599:
            raise Malformed("fault.status: must be 200 to 599")
        if not 0 <= self.rate <= 1 or self.delay < 0:
            raise Malformed("fault: rate must be 0 to 1, and delay not negative")

    @property
    def name(self) -> str:
        """Return what the rule does, in a word or two, as the ledger keeps it."""
        if self.status is not None:
            return f"status {self.status}{' after' if self.after else ''}"
        if self.cut is not None:
            return f"cut {self.cut}"
        acts = (action for action in ("drop", "refuse", "hold", "hold_before") if getattr(self, action))
        return next(acts, "delay")


def rule_of(value: Json) -> FaultRule:
    """Return the rule that a JSON object describes; raise `Malformed` for an unknown field or a wrong kind of value."""
    if not isinstance(value, dict):
        raise Malformed("fault: must be an object")
    known = {one.name for one in fields(FaultRule)}
    for name, setting in value.items():
        if name not in known:
            raise Malformed(f"fault.{name}: not a setting of a fault rule")
        wanted = _KINDS[name]
        if not isinstance(setting, wanted) or (isinstance(setting, bool) and wanted not in {bool, object}):
            raise Malformed(f"fault.{name}: is of the wrong kind")
    headers = value.get("headers", {})
    if isinstance(headers, dict) and not all(isinstance(text, str) for text in headers.values()):
        raise Malformed("fault.headers: must be strings")
    return FaultRule(**value)  # type: ignore[arg-type]  # every kind was checked above


class Faults:
    """The rules in force; safe to change and to ask from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []

    def set(self, rules: Iterable[FaultRule]) -> None:
        """Put `rules` in force instead of those before; their dice and counts start anew."""
        armed = [_Armed(rule) for rule in rules]
        with self._lock:
            self._armed = armed

    def clear(self) -> None:
        """Let everything go right again; what is held already stays held."""
        self.set(())

    def choose(self, path: str, user_keys: Callable[[], frozenset[str]]) -> FaultRule | None:
        """Return the first rule that applies to a request on `path` about the users of `user_keys`, and count it."""
        with self._lock:
            return next((armed.rule for armed in self._armed if armed.applies(path, user_keys)), None)

    def described(self) -> list[dict[str, Json]]:
        """Return the rules as JSON objects, each with how often it was `applied`."""
        with self._lock:
            return [{**asdict(armed.rule), "applied": armed.applied} for armed in self._armed]


class _Armed:
    """A rule in force: its dice and how often it has applied."""

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.applied = 0
        self._dice = random.Random(rule.seed)  # noqa: S311 - repeatable faults, not secrets

    def applies(self, path: str, user_keys: Callable[[], frozenset[str]]) -> bool:
        rule = self.rule
        if path not in (CAPTURE_PATHS if rule.path is None else (rule.path,)):
            return False
        if rule.user_key is not None and rule.user_key not in user_keys():
            return False
        if rule.times is not None and self.applied >= rule.times:
            return False
        if self._dice.random() >= rule.rate:
            return False
        self.applied += 1
        return True


class Gate:
    """Where held requests wait; one release lets out those that wait now, and closing lets out everyone for good."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._released = 0
        self._held = 0
        self._closed = threading.Event()

    @property
    def held(self) -> int:
        """Return how many requests wait now."""
        with self._changed:
            return self._held

    @property
    def closed(self) -> bool:
        """Return whether the sandbox is closing: then nothing that was held is answered."""
        return self._closed.is_set()

    def wait(self) -> None:
        """Wait for the next release, or for the end."""
        with self._changed:
            mine = self._released
            self._held += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._released > mine or self.closed)
            self._held -= 1
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, or for the end."""
        self._closed.wait(seconds)

    def wait_for(self, count: int, timeout: float = 10.0) -> bool:
        """Return whether at least `count` requests are held, waiting up to `timeout` seconds for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self._held >= count, timeout)

    def release(self) -> int:
        """Let out the requests that wait now and return how many they were."""
        with self._changed:
            self._released += 1
            self._changed.notify_all()
            return self._held

    def close(self) -> None:
        """Let out everyone, for good."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
