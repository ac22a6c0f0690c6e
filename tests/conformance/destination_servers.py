"""Local servers for the conformance suite of destinations: one entry for each destination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import orjson
from pydantic import SecretStr

from audience_sync.config import HookTable, SchematicTable
from audience_sync.destinations.destination_protocol import Destination
from audience_sync.destinations.rendered_events import ForwardedEvent
from audience_sync.destinations.schematic.schematic_destination import SchematicDestination
from audience_sync.destinations.webhook.webhook_destination import WebhookDestination
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.support.webhook_receiver import SECRET, Fault, receiving


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A real server on this machine that stands for a destination."""

    at: Callable[[str], Destination]  # the destination with all its URLs below this one
    url: str
    key: SecretStr  # one that it accepts
    environment: str | None  # that the key can read
    has_types: bool  # it keeps the types of traits
    has_environments: bool  # a key belongs to one
    waiting: Callable[[int], ForwardedEvent]  # what waits for it in the table `events`, by its place
    processed: Callable[[], Counter[str]]  # how often it has processed the event with each idempotency key
    answer: Callable[[int, str, Mapping[str, str]], None]  # batches with this status, body and headers from now on
    lose_answers: Callable[[], None]  # take batches from now on, and hang up before the answer
    recover: Callable[[], None]  # answer as it should

    @property
    def destination(self) -> Destination:
        """Return the destination with the URLs of this server."""
        return self.at(self.url)


@contextmanager
def _schematic(folder: Path) -> Iterator[LocalServer]:
    with FaultySandbox(folder / "sandbox.db") as sandbox:

        def at(url: str) -> Destination:
            return SchematicDestination(SchematicTable(capture_url=url, api_url=url, timeout=timedelta(seconds=5)))

        def processed() -> Counter[str]:
            events = sandbox.ledger.events()
            return Counter(str(one.idempotency_key) for one in events if one.status != "duplicate")

        def answer(status: int, body: str, headers: Mapping[str, str]) -> None:
            named = dict(headers)
            kind = named.pop("Content-Type", "application/json")
            sandbox.faults.set([FaultRule(status=status, body=body, headers=named, content_type=kind)])

        yield LocalServer(
            at=at,
            url=sandbox.url,
            key=SecretStr(DEVELOPMENT_KEY),
            environment="env_sandbox",
            has_types=True,
            has_environments=True,
            waiting=_segment_event,
            processed=processed,
            answer=answer,
            lose_answers=lambda: sandbox.faults.set([FaultRule(drop=True)]),
            recover=sandbox.faults.clear,
        )


def _segment_event(position: int) -> ForwardedEvent:
    event = {
        "type": "identify",
        "userId": "u1",
        "timestamp": "2026-03-01T12:00:00.000Z",
        "context": {"groupId": "c1"},
        "traits": {"n": position},
    }
    return ForwardedEvent("u1", position, f"m{position}", "identify", orjson.dumps(event).decode())


@contextmanager
def _webhook(_: Path) -> Iterator[LocalServer]:
    with receiving() as receiver:

        def at(url: str) -> Destination:
            table = {"name": "crm", "url": url, "secret": "${CRM_SECRET}", "timeout": "5s"}
            return WebhookDestination(HookTable.model_validate(table))

        def answer(status: int, body: str, headers: Mapping[str, str]) -> None:
            receiver.fail(Fault(status, body, headers))

        yield LocalServer(
            at=at,
            url=receiver.url,
            key=SecretStr(SECRET),
            environment=None,
            has_types=False,
            has_environments=False,
            waiting=_message,
            processed=receiver.processed,
            answer=answer,
            lose_answers=lambda: receiver.fail(Fault(drops=True)),
            recover=receiver.recover,
        )


def _message(position: int) -> ForwardedEvent:
    facts = {
        "type": "entered",
        "value": True,
        "identifiers": {"company": {"groupId": "c1"}},
        "key": "gold",
        "name": "Gold",
        "computation": "audience",
        "at": "2026-03-01T12:00:00.000Z",
        "initial": False,
    }
    return ForwardedEvent("u1", position, f"1-{position}", "entered", orjson.dumps(facts).decode())


SERVERS: Final[Mapping[str, Callable[[Path], AbstractContextManager[LocalServer]]]] = {
    "schematic": _schematic,
    "webhook": _webhook,
}
"""How to start the local server of each destination, by its name in the registry."""
