"""Whether Schematic accepts events: when a failure is an outage, what is kept of it, and what is reported once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audience_sync.clock import Clock
from audience_sync.delivery import OutageChange, Reachability
from audience_sync.errors import BindingRefused, DestinationAway, DestinationError, KeyRefused
from audience_sync.sandbox.http_server import Request, SandboxResponse
from audience_sync.store import backlog, outages, profile_report, status_report
from audience_sync.store.database import Database
from audience_sync.store.outages import Outage, OutageKind
from audience_sync.store.reports import iso
from audience_sync.store.workspace import Workspace
from tests.factories import NOON, FrozenClock
from tests.sending import Sending, open_sending
from tests.support.faulty_sandbox import FaultRule, FaultySandbox
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_on_postgres

NOON_MS = int(NOON.timestamp() * 1000)
REACHABLE = {"state": "reachable", "since": None, "last_answer": None, "next_try_at": None}


@dataclass(kw_only=True)
class Followed:
    """A process that delivers, at a clock that a test moves, and what it has reported."""

    workspace: Workspace
    clock: FrozenClock = field(default_factory=FrozenClock)
    reports: list[OutageChange] = field(default_factory=list)

    def process(self, *, goes_on: bool = True) -> Reachability:
        """Return what a process knows that has just begun to deliver."""
        clock = Clock(now=self.clock, monotonic=self.clock.monotonic)
        workspace = Workspace(database=self.workspace.database, holder=self.workspace.holder, clock=clock)
        begun = Reachability(workspace, goes_on=goes_on, report=self.reports.append)
        begun.begin()
        return begun

    def kept(self) -> Outage | None:
        """Return what the database has."""
        with self.workspace.database.read() as connection:
            return outages.find(connection)

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(timedelta(seconds=seconds))


@pytest.fixture
def followed(workspace: Workspace) -> Followed:
    """A membership database of each kind, with no outage."""
    return Followed(workspace=workspace)


def outage(kind: OutageKind, since: float, answer: str, next_try: float | None) -> Outage:
    """Return an outage that began at noon; times in seconds after noon."""
    return Outage(
        kind=kind,
        began_at=NOON_MS,
        since=NOON_MS + round(since * 1000),
        answer=answer,
        next_try_at=None if next_try is None else NOON_MS + round(next_try * 1000),
    )


def test_a_short_failure_is_not_an_outage(followed: Followed) -> None:
    """A Schematic that fails for some seconds wakes nobody: nothing is reported, nothing is kept."""
    process = followed.process()
    for again_in in (1, 2, 3):
        process.failed("HTTP 503", again_in=again_in)
        followed.pass_seconds(again_in)
    process.accepted()

    assert followed.reports == []
    assert followed.kept() is None


def test_an_outage_is_reported_once_and_its_end_once(followed: Followed) -> None:
    """It began with the first failure; last answer and next try are kept up to date without further reports."""
    process = followed.process()
    process.failed("HTTP 503", again_in=4)
    followed.pass_seconds(4)
    process.failed("HTTP 502", again_in=8)
    reported = outage(OutageKind.UNREACHABLE, 0, "HTTP 502", 12)

    assert (followed.reports, followed.kept()) == ([OutageChange(reported)], reported)

    followed.pass_seconds(8)
    process.failed("no answer", again_in=900)
    followed.pass_seconds(900)

    assert followed.reports == [OutageChange(reported)]
    assert followed.kept() == outage(OutageKind.UNREACHABLE, 0, "no answer", 912)

    process.accepted()
    process.accepted()

    assert followed.reports[1:] == [
        OutageChange(None, outage(OutageKind.UNREACHABLE, 0, "no answer", 912), timedelta(seconds=912))
    ]
    assert followed.kept() is None


def test_a_long_wait_is_an_outage_at_once(followed: Followed) -> None:
    """A server that asks for an hour's patience is reported with its first answer, not after the hour."""
    followed.process().failed("HTTP 429", again_in=3600)

    assert followed.reports == [OutageChange(outage(OutageKind.UNREACHABLE, 0, "HTTP 429", 3600))]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KeyRefused("refused"), OutageKind.KEY_REFUSED),
        (DestinationAway("away"), OutageKind.UNREACHABLE),
        (DestinationError("an HTML page"), OutageKind.STOPPED),
        (BindingRefused("another environment"), OutageKind.STOPPED),
    ],
)
def test_what_ends_a_delivery_is_an_outage_at_once(
    followed: Followed, error: DestinationError, kind: OutageKind
) -> None:
    """Each is tried again and again by the daemon, and reported the first time."""
    process = followed.process()
    for _ in range(3):
        process.stopped(error, again_in=900)
        followed.pass_seconds(900)

    assert followed.reports == [OutageChange(outage(kind, 0, str(error), 900))]
    assert followed.kept() == outage(kind, 0, str(error), 2700)


def test_each_kind_of_outage_is_reported(followed: Followed) -> None:
    """From unreachable to a refused key to a wrong destination and another one: each has its own beginning and end."""
    process = followed.process()
    process.failed("HTTP 503", again_in=60)
    followed.pass_seconds(60)
    process.stopped(KeyRefused("HTTP 401"), again_in=70)
    followed.pass_seconds(70)
    process.stopped(DestinationError("HTTP 404"), again_in=80)
    followed.pass_seconds(80)
    process.stopped(DestinationError("certificate has expired"), again_in=90)
    followed.pass_seconds(90)
    process.accepted()
    unreachable = outage(OutageKind.UNREACHABLE, 0, "HTTP 503", 60)
    refused = outage(OutageKind.KEY_REFUSED, 60, "HTTP 401", 130)
    wrong = outage(OutageKind.STOPPED, 130, "HTTP 404", 210)
    expired = outage(OutageKind.STOPPED, 210, "certificate has expired", 300)

    assert followed.reports == [
        OutageChange(unreachable),
        OutageChange(refused, unreachable, timedelta(seconds=60)),
        OutageChange(wrong, refused, timedelta(seconds=70)),
        OutageChange(expired, wrong, timedelta(seconds=80)),
        OutageChange(None, expired, timedelta(seconds=90)),
    ]


def test_a_restart_goes_on_with_the_outage(followed: Followed) -> None:
    """The next process reports since when it has really been going on, and its end."""
    followed.process().failed("HTTP 503", again_in=60)
    followed.pass_seconds(60)
    restarted = followed.process()
    restarted.failed("HTTP 503", again_in=1)
    followed.pass_seconds(1)
    restarted.accepted()

    assert followed.reports == [
        OutageChange(outage(OutageKind.UNREACHABLE, 0, "HTTP 503", 60)),
        OutageChange(outage(OutageKind.UNREACHABLE, 0, "HTTP 503", 61)),
        OutageChange(None, outage(OutageKind.UNREACHABLE, 0, "HTTP 503", 61), timedelta(seconds=61)),
    ]


def test_a_command_leaves_the_next_try_to_the_daemon(followed: Followed) -> None:
    """A command that gives up after a minute does not promise a next try; the daemon's stays until the daemon ends."""
    command = followed.process(goes_on=False)
    command.failed("HTTP 503", again_in=60)
    assert followed.kept() == outage(OutageKind.UNREACHABLE, 0, "HTTP 503", None)

    followed.process().failed("HTTP 503", again_in=900)
    command.failed("HTTP 502", again_in=2)
    assert followed.kept() == outage(OutageKind.UNREACHABLE, 0, "HTTP 502", 900)

    with followed.workspace.database.write() as connection:
        outages.note_no_next_try(connection)
    assert followed.kept() == outage(OutageKind.UNREACHABLE, 0, "HTTP 502", None)


# With deliveries


@pytest.fixture
def sending(tmp_path: Path, database: Database) -> Iterator[Sending]:
    """An audience of three people, synced and not yet delivered; each is a batch, and tries are half a second apart."""
    with FaultySandbox(tmp_path / "sandbox.db") as sandbox, open_sending(tmp_path, database, sandbox) as opened:
        limits = {"batch_size": 1, "concurrency": 2, "max_backoff": timedelta(seconds=0.5)}
        sending = opened.with_settings(delivery=limits)
        sending.sync(gold=["u1", "u2", "u3"])
        yield sending


def destination(sending: Sending) -> dict[str, object]:
    """Return what `status` shows of Schematic."""
    with sending.workspace.database.read() as connection:
        return status_report.destination(connection, now_ms=sending.workspace.clock.now_ms())


def test_the_next_try_is_when_it_is_promised(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """During an outage every request comes at the time that `status` showed before it, and no earlier."""
    sending = sending.tuned(outage_report_seconds=0.0)
    promised: list[int] = []
    came: list[float] = []
    answerer = sending.sandbox._server.answerer

    def look(request: Request) -> SandboxResponse | None:
        if request.path == "/batch":
            came.append(datetime.now(UTC).timestamp() * 1000)
            with sending.workspace.database.read() as connection:
                promised.append(outages.next_try(connection))
        return answerer(request)

    monkeypatch.setattr(sending.sandbox._server, "answerer", look)
    sending.sandbox.faults.set([FaultRule(status=503)])
    stop = threading.Event()
    reachability = Reachability(sending.workspace, goes_on=True)
    with sending.delivering(wait=3600, stop=stop, reachability=reachability) as report:
        wait_until(lambda: len(came) >= 12)
        shown = destination(sending)
        stop.set()
        report.result(60)
    once_it_lasts = list(zip(promised, came, strict=True))[6:]

    assert shown["state"] == "unreachable"
    assert str(shown["last_answer"]).startswith("HTTP 503")
    assert all(-5 <= at - promise <= 1000 for promise, at in once_it_lasts), once_it_lasts


def test_a_refused_key_and_its_recovery(sending: Sending) -> None:
    """A delivery that the key ended is shown with its answer; the first event that is accepted clears it."""
    sending.sandbox.keys.revoke(sending.key)
    refused = sending.deliver()
    shown = destination(sending)
    sending.sandbox.keys.restore(sending.key)
    accepted = sending.deliver()

    assert isinstance(refused.failure, KeyRefused)
    assert (shown["state"], shown["last_answer"], shown["next_try_at"]) == ("key_refused", str(refused.failure), None)
    assert (accepted.open, destination(sending)) == (0, REACHABLE)


def test_attempts_are_not_due_before_the_destination_is(sending: Sending) -> None:
    """A batch that waits for its own next try also waits for the end of an outage, and is shown so."""
    sending.sandbox.faults.set([FaultRule(status=503)])
    sending.deliver_until(sending.tried)
    in_an_hour = sending.workspace.clock.now_ms() + 3_600_000
    with sending.workspace.database.write() as connection:
        outages.keep(connection, replace(outage(OutageKind.UNREACHABLE, 0, "HTTP 503", None), next_try_at=in_an_hour))
        waiting = backlog.waiting_batches(connection, max_backoff=timedelta(minutes=15))
        tried = [one for key in ("u1", "u2", "u3") for one in profile_report.audiences(connection, key)]
    expected = datetime.fromtimestamp(in_an_hour // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")

    assert {str(one["next_try_at"])[:19] for one in waiting} == {expected}
    assert {str(one["next_try_at"])[:19] for one in tried if one["tries"]} == {expected}


def test_nothing_left_to_send_is_no_outage(sending: Sending) -> None:
    """When the last change that waited is discarded, nobody knows of an outage any more."""
    sending.sandbox.keys.revoke(sending.key)
    sending.deliver()
    sending.write("DELETE FROM batches")
    sending.write("DELETE FROM outbox")
    sending.deliver()

    assert destination(sending) == REACHABLE


def test_a_time_that_has_passed_is_no_next_try(sending: Sending) -> None:
    """A daemon that was killed has left its next try behind: nothing tries then."""
    now = sending.workspace.clock.now_ms()
    for at, shown in ((now + 60_000, iso(now + 60_000)), (now, None)):
        with sending.workspace.database.write() as connection:
            kept = Outage(kind=OutageKind.UNREACHABLE, began_at=now, since=now, answer="HTTP 503", next_try_at=at)
            outages.keep(connection, kept)

        assert destination(sending)["next_try_at"] == shown


def test_an_event_that_fails_alone_is_no_outage(sending: Sending) -> None:
    """An event that fails while the rest of its batch passes says nothing of Schematic, however long it fails."""
    sending = sending.tuned(outage_report_seconds=0.0)
    sending.sandbox.faults.set([FaultRule(status=500, user_key="u1")])
    impatient = sending.with_settings(delivery={"batch_size": 3, "max_backoff": timedelta(seconds=0.1)})
    impatient.deliver_until(lambda: bool(sending.rows("SELECT 1 FROM batches WHERE size = 1 AND tries > 5")))

    assert len(sending.events()) == 2
    assert destination(sending) == REACHABLE
