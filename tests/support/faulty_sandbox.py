"""A sandbox whose requests stall, fail or fall silent as a test says, with a gate at which they wait.

The rules are asked in order and the first that applies to a request decides what happens to it. Dice are seeded, so the
same requests meet the same faults.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson

from audience_sync.core import exact_json
from audience_sync.core.model import Json
from audience_sync.sandbox.capture import CAPTURE_PATHS, count
from audience_sync.sandbox.http_server import Request, SandboxResponse
from audience_sync.sandbox.sandbox_server import OWN_PATHS, Sandbox


@dataclass(frozen=True, kw_only=True)
class FaultRule:
    """When a fault happens (`path` to `times`) and what it is: one of the rest, or a `delay` in seconds, or both.

    `status` answers instead of the real work, or with `after` behind its back; `drop` does the work, then drops the
    connection; `cut` does it after that number of bytes; `refuse` drops it before anything is taken; `hold` does the
    work and keeps the answer back until the gate is opened; `hold_before` waits at the gate first. Raises `ValueError`
    for a rule that can do nothing, or two things.
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
            raise ValueError("fault: only one of status, drop, cut, refuse, hold and hold_before")
        if not any(actions) and not self.delay:
            raise ValueError("fault: needs one of status, drop, cut, refuse, hold, hold_before and delay")
        if (self.after and self.status is None) or (self.cut is not None and self.cut < 0):
            raise ValueError("fault: after needs status, and cut must not be negative")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError("fault.status: must be 200 to 599")
        if not 0 <= self.rate <= 1 or self.delay < 0:
            raise ValueError("fault: rate must be 0 to 1, and delay not negative")

    @property
    def name(self) -> str:
        """Return what the rule does, in a word or two, as the ledger keeps it."""
        if self.status is not None:
            return f"status {self.status}{' after' if self.after else ''}"
        if self.cut is not None:
            return f"cut {self.cut}"
        acts = (action for action in ("drop", "refuse", "hold", "hold_before") if getattr(self, action))
        return next(acts, "delay")


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
        self._dice = random.Random(rule.seed)

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
    """The gate at which held requests wait: a release lets out those that wait now, closing all for good."""

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


class FaultySandbox(Sandbox):
    """A sandbox with fault rules, and the gate at which requests wait that are held."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.faults = Faults()
        self.gate = Gate()
        super().__init__(path, **settings)

    def close(self) -> None:
        """Let go what is held, unanswered, and close."""
        self.gate.close()
        super().close()

    def respond(self, request: Request) -> SandboxResponse | None:
        """Return the response to a request, as the first rule that applies to it wants it."""
        rule = self.faults.choose(request.path, lambda: user_keys(request.body))
        if request.path.startswith(OWN_PATHS) or rule is None:
            return super().respond(request)
        return self._stumble(rule, replace(request, fault=rule.name))

    def _stumble(self, rule: FaultRule, request: Request) -> SandboxResponse | None:
        self.gate.pause(rule.delay)
        if rule.hold_before:
            self.gate.wait()
        if self.gate.closed:
            return None
        if rule.refuse or (rule.status is not None and not rule.after):
            self.ledger.record(request.path, rule.status, events=count(request), fault=rule.name)
            return _scripted(rule)
        answered = self.route(request)
        if rule.hold:
            self.gate.wait()
        if rule.drop or self.gate.closed:
            return None
        return _scripted(rule) if rule.after else replace(answered, cut=rule.cut)


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


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _scripted(rule: FaultRule) -> SandboxResponse | None:
    if rule.status is None:
        return None
    if isinstance(rule.body, str):
        return SandboxResponse(rule.status, rule.body.encode(), rule.content_type or "text/html", rule.headers)
    phrase = HTTPStatus(rule.status).phrase if rule.status in frozenset(HTTPStatus) else "fault"
    body = orjson.dumps({"error": phrase.lower()} if rule.body is None else rule.body)
    return SandboxResponse(rule.status, body, rule.content_type or "application/json", rule.headers)
