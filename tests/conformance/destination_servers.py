"""Local servers for the conformance suite of destinations: one entry for each destination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from audience_sync.config import SchematicTable
from audience_sync.destinations.destination_protocol import Destination
from audience_sync.destinations.schematic.schematic_destination import SchematicDestination
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from tests.support.faulty_sandbox import FaultRule, FaultySandbox


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A real server on this machine that stands for a destination."""

    at: Callable[[str], Destination]  # the destination with all its URLs below this one
    url: str
    key: SecretStr  # one that it accepts
    environment: str | None  # that the key can read
    has_types: bool  # it keeps the types of traits
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
            processed=processed,
            answer=answer,
            lose_answers=lambda: sandbox.faults.set([FaultRule(drop=True)]),
            recover=sandbox.faults.clear,
        )


SERVERS: Final[Mapping[str, Callable[[Path], AbstractContextManager[LocalServer]]]] = {"schematic": _schematic}
"""How to start the local server of each destination, by its name in the registry."""
