"""What the tests of the commands share: a shop, its configuration, a sandbox, and commands as processes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from audience_sync.clock import Clock
from audience_sync.config import Settings, load
from audience_sync.delivery import DeliveryOptions, deliver
from audience_sync.kill_points import KILL_VARIABLE
from audience_sync.sandbox.sandbox_server import DEVELOPMENT_KEY
from audience_sync.store import holders, schema
from audience_sync.store.database import Database, connect
from audience_sync.store.workspace import Workspace
from audience_sync.sync import Job, RunReport, sync
from tests.commands import Command, call
from tests.factories import AUDIENCE_KEY, Shop, company_identifiers, config_text
from tests.support.faulty_sandbox import FaultySandbox
from tests.tuned import tuned_database

DEADLINE = 90.0  # seconds; a command that takes longer on a busy machine hangs
KILLED = -signal.SIGKILL
ON_ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on where memberships are kept."""

LOOK = 0.1  # seconds between two looks at a condition: the commands need the processor more

Customers: TypeAlias = Mapping[str, str | None]
"""Who ordered, and for which company."""


class Ended(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return what it printed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A command that runs; what it says goes into files, so that it never waits for a reader."""

    def __init__(
        self, folder: Path, words: tuple[str, ...], environment: Mapping[str, str], *, stdin: Path = Path(os.devnull)
    ) -> None:
        self._paths = [folder / f"{name}-{uuid4().hex}.txt" for name in ("out", "err")]
        out, err = self._paths
        out.touch()
        err.touch()
        words = ("--config", str(folder / "config.toml"), *words)
        self.process = Command(words, environment, out=out, err=err, stdin=stdin)

    @property
    def said(self) -> str:
        """What is on stderr so far."""
        return self._read()[1]

    @property
    def printed(self) -> str:
        """Return its stdout so far."""
        return self._read()[0]

    @property
    def logged(self) -> list[dict[str, Any]]:
        """Return the log lines on stderr so far that are whole."""
        lines = self.said.rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_for(self, text: str) -> None:
        """Wait until it has said something on stderr."""
        until(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said, self.said

    def end(self, number: signal.Signals | None = None, *, seconds: float = DEADLINE) -> Ended:
        """Send a signal, if one is named, wait for the end and return how it ended."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        return Ended(code, *self._read())

    def close(self) -> None:
        """End it however it stands."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> list[str]:
        return [path.read_text(encoding="utf-8") for path in self._paths]


@dataclass(kw_only=True)
class Place:
    """A folder with a shop and a configuration, a migrated membership database, and a sandbox that serves."""

    folder: Path
    database_url: str
    database: Database
    shop: Shop
    sandbox: FaultySandbox
    key: str = DEVELOPMENT_KEY
    environment: dict[str, str] = field(default_factory=dict)
    always_forks: bool = False  # commands that are not killed get a process of their own, too
    has_daemon: bool = False  # in this process

    def configure(
        self,
        *,
        rate: float = 2000,
        url: str | None = None,
        destination: str | None = None,
        more: str = "",
        **wanted: Any,
    ) -> Settings:
        """Write the configuration: the keywords of `config_text`, and `rate` in requests a second."""
        destination = json.dumps(destination or self.sandbox.url)
        settings = [
            f"[database]\nurl = {json.dumps(url or self.database_url)}",
            f"[schematic]\ncapture_url = {destination}\napi_url = {destination}",
            f'[delivery]\nmax_backoff = "1s"\nmax_requests_per_second = {rate}',
        ]
        path = self.folder / "config.toml"
        path.write_text(config_text(more="\n".join([*settings, more]), **wanted), encoding="utf-8")
        return load(path, {})

    def command(self, *words: str, kill: str | None = None) -> Ended:
        """Run a command to its end: in this process, or in one that is killed at a named point if asked for."""
        if kill is None and not self.always_forks:
            line = ["--config", str(self.folder / "config.toml"), *words]
            return Ended(*call(line, self._environment(), is_alone=not self.has_daemon))
        with self.running(*words, kill=kill) as running:
            return running.end()

    @contextmanager
    def running(self, *words: str, kill: str | None = None, stdin: Path = Path(os.devnull)) -> Iterator[Running]:
        """Start a command in a process of its own; it is ended with the block."""
        environment = self._environment()
        if kill is not None:
            environment[KILL_VARIABLE] = kill
        with closing(Running(self.folder, words, environment, stdin=stdin)) as running:
            yield running

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SCHEMATIC_API_KEY": self.key, **self.environment}

    def sync_here(self, settings: Settings, customers: Customers, **tuning: float) -> list[RunReport]:
        """Put customers into the shop and sync every audience, in this process and without delivering."""
        self.shop.set_orders(customers.items())
        with self.workspace(**tuning) as workspace:
            return [sync(workspace, Job(settings=settings, audience=audience)) for audience in settings.audiences]

    def deliver_here(self) -> None:
        """Deliver in this process until nothing is open."""
        settings = load(self.folder / "config.toml", {})
        with self.workspace() as workspace:
            assert deliver(workspace, DeliveryOptions(settings=settings, key=SecretStr(self.key))).open == 0

    @contextmanager
    def workspace(self, **tuning: float) -> Iterator[Workspace]:
        """Be a holder of leases on the membership database, as a living process that the command meets."""
        with closing(holders.enter(self.database)) as holder:
            database = tuned_database(self.database, **tuning)
            yield Workspace(database=database, holder=holder, clock=Clock())

    def rows(self, query: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the membership database."""
        with self.database.read() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query), parameters)]

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all that the membership database holds, by table; leases aside, they are taken and given back."""
        kept = [table for table in schema.metadata.sorted_tables if table.name != "leases"]
        with self.database.read() as connection:
            return {
                table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
                for table in kept
            }

    def members(self, audience: str = AUDIENCE_KEY) -> dict[str, str | None]:
        """Return the members of an audience with their identifiers."""
        query = "SELECT profile_key, identifiers FROM current_members WHERE audience = :a"
        return dict(self.rows(query, a=audience))

    def traits(self) -> dict[str, Any]:
        """Return what the sandbox knows of everybody."""
        return dict(self.sandbox.ledger.all_traits("userId"))

    def received(self) -> int:
        """Return how many events the sandbox has received, repetitions included."""
        ((count,),) = self.sandbox.ledger.read("SELECT count(*) FROM events")
        return int(count)

    def held(self) -> list[tuple[Any, ...]]:
        """Return the leases that somebody holds."""
        return self.rows("SELECT audience_id, holder FROM leases WHERE holder <> ''")

    def started(self) -> list[tuple[Any, ...]]:
        """Return the runs that have begun."""
        return self.rows("SELECT id FROM runs")


@contextmanager
def open_place(folder: Path, database_url: str) -> Iterator[Place]:
    """Make a place with an empty shop and an empty sandbox."""
    with (
        closing(connect(database_url)) as database,
        closing(Shop(folder / "shop.db")) as shop,
        FaultySandbox(folder / "sandbox.db") as sandbox,
    ):
        yield Place(folder=folder, database_url=database_url, database=database, shop=shop, sandbox=sandbox)


def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; fail the test when it never does."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(LOOK)


def customers(*numbers: int | range, company: str = "acme") -> dict[str, str | None]:
    """Return customers `u1`, `u2` … of one company."""
    flat = (n for part in numbers for n in (part if isinstance(part, range) else [part]))
    return {f"u{n}": company for n in flat}


def memberships(of: Customers) -> dict[str, str | None]:
    """Return customers as `Place.members` has them."""
    return {user: company_identifiers(company) for user, company in of.items()}


def assert_settled(place: Place, now: Customers, *, before: Customers | None = None) -> None:
    """Assert that memberships, history and sandbox say that these customers are members and others left.

    Nothing waits, no plan is left behind, and no run is unfinished.
    """
    left = set(before or {}) - set(now)
    told: dict[str, Any] = {}
    for event in place.sandbox.ledger.events():
        told[event.body["keys"]["userId"]] = event.body.get("company")  # type: ignore[call-overload, index]

    assert_stored(place, now, before=before)
    assert (
        place.rows("SELECT * FROM open_deliveries") == place.rows("SELECT * FROM batches WHERE status = 'open'") == []
    )
    assert place.traits() == {user: {AUDIENCE_KEY: user not in left} for user in {*now, *left}}
    assert {user: told[user]["keys"]["groupId"] for user in now} == dict(now)


def assert_stored(place: Place, now: Customers, *, before: Customers | None = None) -> None:
    """Assert the same of memberships and history alone, whatever is delivered."""
    left = set(before or {}) - set(now)
    latest: dict[str, tuple[str, str | None]] = {}
    for user, kind, identifiers in place.rows(
        "SELECT profile_key, kind, identifiers FROM membership_changes ORDER BY run_id"
    ):
        latest[user] = (kind, identifiers)

    assert place.members() == memberships(now)
    assert {user for user, (kind, _) in latest.items() if kind == "exited"} == left
    assert {user: identifiers for user, (kind, identifiers) in latest.items() if kind != "exited"} == memberships(now)
    assert place.rows("SELECT members, completed FROM audiences") == [(len(now), True)]
    assert place.rows("SELECT id FROM runs WHERE state IN ('running', 'applying', 'blocked')") == []
    assert place.rows("SELECT * FROM staged") == []
    assert place.held() == []
