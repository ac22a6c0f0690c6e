"""What the tests of delivery share: audiences whose members a test names, a membership database, and a sandbox.

An audience `gold` is whoever has an order at the company `gold`; `Sending.sync(gold=["u1"])` makes that so and syncs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import SecretStr

from audience_sync.clock import Clock
from audience_sync.config import Settings, load
from audience_sync.delivery import DeliveryOptions, DeliveryReport, deliver
from audience_sync.kill_points import KILL_VARIABLE
from audience_sync.sandbox.http_server import Request, SandboxResponse
from audience_sync.sandbox.ledger import StoredEvent
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.segment.segment_events import arrive
from audience_sync.store import events as waiting_events
from audience_sync.store import holders
from audience_sync.store.database import Database
from audience_sync.store.runs import RunRow
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, sync
from tests.commands import Command, call
from tests.factories import Shop
from tests.support.faulty_sandbox import FaultySandbox
from tests.tuned import tuned as tuned_workspace
from tests.waiting import wait_until

SOON = timedelta(milliseconds=20)  # the longest wait between two tries, so that nobody waits for a test
SHORTEST = Clock(jitter=lambda: 0.99)  # jitter takes away from waits: this is as much as it can


@dataclass(kw_only=True)
class Sending:
    """Audiences to sync and a sandbox to deliver to."""

    settings: Settings
    workspace: Workspace
    shop: Shop
    sandbox: FaultySandbox
    key: str = DEVELOPMENT_KEY
    orders: dict[str, list[str]] = field(default_factory=dict)

    def tuned(self, **changes: Any) -> Sending:
        """Return the same with other tunable numbers."""
        return replace(self, workspace=tuned_workspace(self.workspace, **changes))

    def sync(self, **members: Iterable[str]) -> dict[str, RunRow]:
        """Make audiences have exactly these members, and sync them; return the runs."""
        self.orders.update({key: list(users) for key, users in members.items()})
        self.shop.set_orders([(user, key) for key, users in self.orders.items() for user in users])
        return {key: self.sync_again(key) for key in members}

    def sync_again(self, key: str, *, as_of: datetime | None = None) -> RunRow:
        """Sync an audience with what its source holds."""
        return sync(self.workspace, Job(settings=self.settings, audience=self.settings.audience(key), as_of=as_of)).run

    def deliver(self, *, wait: float = 20.0, **told: Any) -> DeliveryReport:
        """Deliver what lies in the outbox; `wait` in seconds."""
        delivery = DeliveryOptions(
            settings=self.settings, key=SecretStr(self.key), wait=timedelta(seconds=wait), **told
        )
        return deliver(self.workspace, delivery)

    @contextmanager
    def delivering(self, **told: Any) -> Iterator[Future[DeliveryReport]]:
        """Deliver in another thread; what is held is let go in the end, whatever happens."""
        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(self.deliver, **told)
            finally:
                self.sandbox.gate.release()

    def deliver_until(self, holds: Callable[[], bool]) -> DeliveryReport:
        """Deliver until a condition holds, then stop."""
        stop = threading.Event()
        with self.delivering(stop=stop) as report:
            wait_until(lambda: holds() or report.done())
            stop.set()
            return report.result()

    def with_settings(self, **tables: Mapping[str, object]) -> Sending:
        """Return the same with other settings: `delivery={"concurrency": 1}`."""
        changed = {name: getattr(self.settings, name).model_copy(update=values) for name, values in tables.items()}
        return Sending(**{**vars(self), "settings": self.settings.model_copy(update=changed)})

    def with_mappings(self, text: str) -> Sending:
        """Return the same with these mappings in its file, instead of those before."""
        path = self.settings.path
        path.write_text(path.read_text().partition("[[mappings]]")[0] + text)
        settings = load(path, {}).model_copy(update={"delivery": self.settings.delivery})
        return Sending(**{**vars(self), "settings": settings})

    def forward(self, events: Iterable[Mapping[str, Any]], *, now_ms: int | None = None) -> int:
        """Keep Segment events to be forwarded; return how many are new."""
        arrivals = [arrive(event, orjson.dumps(event)) for event in events]
        with self.workspace.database.write() as connection:
            return waiting_events.take(connection, arrivals, now_ms=now_ms or self.workspace.clock.now_ms())

    def rows(self, query: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the membership database."""
        with self.workspace.database.read() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query), parameters)]

    def write(self, statement: str, **parameters: object) -> None:
        """Change the membership database behind everybody's back."""
        with self.workspace.database.write() as connection:
            connection.execute(sa.text(statement), parameters)

    def expected_traits(self) -> dict[str, dict[str, bool]]:
        """Return what Schematic should know: true for the members of an audience, false for those who left."""
        members = set(self.rows("SELECT profile_key, audience FROM current_members"))
        known: dict[str, dict[str, bool]] = {}
        for profile, audience in self.rows("SELECT DISTINCT profile_key, audience FROM membership_changes"):
            known.setdefault(profile, {})[audience] = (profile, audience) in members
        return known

    def traits(self) -> dict[str, Any]:
        """Return what the sandbox knows of everybody."""
        return dict(self.sandbox.ledger.all_traits("userId"))

    def events(self, profile: str | None = None) -> list[StoredEvent]:
        """Return what the sandbox received, of everybody or of one profile, oldest first."""
        events = self.sandbox.ledger.events()
        return [event for event in events if profile is None or user_of(event) == profile]

    def posts(self) -> int:
        """Return how many batches the sandbox took."""
        ((count,),) = self.sandbox.ledger.read("SELECT count(*) FROM requests WHERE path = '/batch' AND status = 200")
        return int(count)

    def tried(self) -> bool:
        """Return whether anything was tried in vain and waits to be tried again."""
        return bool(self.rows("SELECT 1 FROM batches WHERE status = 'open' AND tries > 0"))

    def attempts(self) -> int:
        """Return how many batches have no settled answer."""
        ((count,),) = self.rows("SELECT count(*) FROM batches WHERE status = 'open'")
        return int(count)


def assert_agreed(sending: Sending) -> None:
    """Assert that all is delivered, and that the sandbox's traits are the memberships."""
    assert sending.rows("SELECT profile_key, reason FROM open_deliveries") == []
    assert sending.attempts() == 0
    assert sending.expected_traits() == sending.traits()


def assert_in_order(sending: Sending) -> None:
    """Assert that no event of a profile was received behind a newer one, repetitions included."""
    runs = dict(sending.rows("SELECT idempotency_key, run_ids FROM sent_deliveries"))
    newest: dict[str, int] = {}
    for event in sending.events():
        run = max(orjson.loads(runs[event.idempotency_key]))
        assert newest.get(user_of(event), 0) <= run, f"{user_of(event)} was told something old"
        newest[user_of(event)] = run


def user_of(event: StoredEvent) -> str:
    """Return the userId that an event was about."""
    keys = event.body["keys"]
    assert isinstance(keys, dict)
    return str(keys["userId"])


@contextmanager
def open_sending(
    folder: Path,
    database: Database,
    sandbox: FaultySandbox,
    *,
    audiences: Sequence[str] | Mapping[str, str] = ("gold",),
    source_url: str = "sqlite:///shop.db",
    company_keys: Mapping[str, str] | None = None,
    user_keys: Mapping[str, str] | None = None,
    traits: Mapping[str, Mapping[str, object]] | None = None,
) -> Iterator[Sending]:
    """Write a configuration of these audiences, whose guards allow everything, and become a holder on the database.

    A mapping has the definition of each audience, where that is not `members_of` its name; `traits` has the settings of
    each computed trait.
    """
    path = folder / "config.toml"
    definitions = audiences if isinstance(audiences, Mapping) else {name: members_of(name) for name in audiences}
    more = [line for name, wanted in (traits or {}).items() for line in _trait(name, wanted)]
    path.write_text(
        _configuration(database, sandbox, source_url, definitions, company_keys or {}, user_keys or {})
        + "\n".join(more)
    )
    settings = load(path, {})
    quick = {"max_backoff": SOON, "max_requests_per_second": 2000.0, "batch_size": 100}
    settings = settings.model_copy(update={"delivery": settings.delivery.model_copy(update=quick)})
    with closing(holders.enter(database)) as holder, closing(Shop(folder / "shop.db")) as shop:
        workspace = Workspace(database=database, holder=holder, clock=SHORTEST)
        yield Sending(settings=settings, workspace=workspace, shop=shop, sandbox=sandbox)


def members_of(company: str) -> str:
    """Return the definition of an audience: whoever has an order at this company."""
    return f"SELECT customer_id AS user_id, company_id FROM orders WHERE company_id = '{company}'"


def _configuration(
    database: Database,
    sandbox: FaultySandbox,
    source_url: str,
    definitions: Mapping[str, str],
    company_keys: Mapping[str, str],
    user_keys: Mapping[str, str],
) -> str:
    url = database.engine.url.render_as_string(hide_password=False)
    lines = [
        "[database]",
        f"url = {json.dumps(url)}",
        "[sources.shop]",
        f"url = {json.dumps(source_url)}",
        "[schematic]",
        f"capture_url = {json.dumps(sandbox.url)}",
        f"api_url = {json.dumps(sandbox.url)}",
        "[delivery]",
        "batch_size = 10",
        "max_requests_per_second = 2000",
        'max_backoff = "1s"',
        "[guard]",
        "min_members = 1_000_000",
    ]
    for name, sql in definitions.items():
        lines += ["[[audiences]]", f"name = {json.dumps(name)}", f"sql = {json.dumps(sql)}"]
        lines += [f"company_keys.{key} = {json.dumps(column)}" for key, column in company_keys.items()]
        lines += [f"user_keys.{key} = {json.dumps(column)}" for key, column in user_keys.items()]
    return "\n".join([*lines, ""])


def _trait(name: str, wanted: Mapping[str, object]) -> list[str]:
    settings = [f"{setting} = {_toml(value)}" for setting, value in wanted.items()]
    return ["[[traits]]", f"name = {json.dumps(name)}", *settings]


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }"
    return json.dumps(value)


def run_deliver(sending: Sending, *, kill: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command `deliver`: in this process, or in one that is killed at a named point if asked for."""
    environment = {**os.environ, "SCHEMATIC_API_KEY": sending.key}
    words = ["--config", str(sending.settings.path), "deliver"]
    if kill is None:
        return subprocess.CompletedProcess(words, *call(words, environment))
    environment[KILL_VARIABLE] = kill
    out, err = (sending.settings.path.with_name(f"{name}.txt") for name in ("out", "err"))
    out.write_text("")
    err.write_text("")
    code = Command(words, environment, out=out, err=err).wait(60)
    return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


@contextmanager
def in_between(sandbox: FaultySandbox, look: Callable[[Request], SandboxResponse | None]) -> Iterator[None]:
    """Show every request to `look` first; what it answers is the answer, else the sandbox's."""
    server = sandbox._server
    answerer = server.answerer
    server.answerer = lambda request: look(request) or answerer(request)
    try:
        yield
    finally:
        server.answerer = answerer


@contextmanager
def speaking(pieces: Iterable[bytes], *, pause: float = 0.0) -> Iterator[str]:
    """Serve whoever connects these bytes, piece by piece, then hang up; yield the URL.

    `pieces` must be iterable many times; `pause` is in seconds.
    """
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                received = b""
                while b'"events":' not in received or not received.endswith(b"]}"):
                    if not (got := connection.recv(65536)):
                        return
                    received += got
                for piece in pieces:
                    if over.wait(pause):
                        return
                    connection.sendall(piece)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=speak, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
