"""The daemon with `[ingest]`: what it takes over HTTP reaches Schematic, through kills too."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.acceptance.local_daemon import LocalDaemon, local_daemon
from tests.acceptance.running import KILLED, ON_ONE_DATABASE, Place, Running, open_place, until
from tests.ingesting import KEY, TRACK, basic, head

SOON = 10.0  # seconds in which SIGTERM ends the daemon


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """A configuration that listens at any port; its audience is synced once, of nobody."""
    with open_place(tmp_path, database_url) as opened:
        listening(opened, "127.0.0.1:0")
        yield opened


def listening(place: Place, address: str) -> None:
    """Configure an address for events."""
    place.environment["SEGMENT_WRITE_KEY"] = KEY
    place.configure(more=f'[ingest]\nlisten = "{address}"\nwrite_keys = ["${{SEGMENT_WRITE_KEY}}"]')


def address_of(daemon: Running | LocalDaemon) -> str:
    """Return where a daemon says that it listens."""
    daemon.wait_for("ingest_started")
    until(lambda: any(line["event"] == "ingest_started" for line in daemon.logged))
    return str(next(line["address"] for line in daemon.logged if line["event"] == "ingest_started"))


def track(address: str, message_id: str) -> int:
    """Send an event and return the status."""
    event = {**TRACK, "messageId": message_id}
    return httpx.post(
        f"http://{address}/v1/track", json=event, headers=basic(), trust_env=False, verify=False
    ).status_code


@pytest.mark.slow
def test_what_is_taken_is_delivered_and_the_end_is_quick(place: Place) -> None:
    """An event that is answered 200 reaches Schematic; open connections and half a request do not hold up the end."""
    with place.running("run") as daemon:
        host, _, port = (address := address_of(daemon)).rpartition(":")
        assert track(address, "m1") == 200
        until(lambda: place.received() == 1)
        with (
            closing(socket.create_connection((host, int(port)))) as half,
            closing(socket.create_connection((host, int(port)))),
        ):
            half.sendall(head(length=100) + b"{")
            ended = daemon.end(signal.SIGTERM, seconds=SOON)

    assert ended.code == 0
    assert KEY not in ended.out + ended.err
    assert "work_abandoned" not in ended.err


@pytest.mark.parametrize(("point", "kept"), [("ingest.taken", 0), ("ingest.committed", 1)])
def test_kill_around_the_commit(place: Place, point: str, kept: int) -> None:
    """Killed before the commit nothing is kept, killed behind it all is; sent again it is there once, either way."""
    with place.running("run", kill=f"{point}:1") as daemon:
        with pytest.raises(httpx.HTTPError):
            track(address_of(daemon), "m1")
        assert daemon.end().code == KILLED
    between = len(place.rows("SELECT 1 FROM events"))
    with place.running("run") as daemon:
        assert track(address_of(daemon), "m1") == 200
        until(lambda: place.received() == 1 and not place.rows("SELECT 1 FROM events"))
        daemon.end(signal.SIGTERM)

    assert between == kept
    assert place.received() == 1


@ON_ONE_DATABASE
def test_events_are_taken_while_the_key_is_refused(place: Place) -> None:
    """A wrong API key stops what is sent, not what is taken; with the right one it goes on."""
    right, place.key = place.key, "sch_revoked"
    with local_daemon(place) as daemon:
        assert track(address_of(daemon), "m1") == 200
        daemon.wait_for("key_refused")
        assert track(address_of(daemon), "m2") == 200
    place.key = right
    with local_daemon(place):
        until(lambda: place.received() == 2)

    assert place.rows("SELECT 1 FROM events") == []


@ON_ONE_DATABASE
def test_requests_that_are_refused_are_in_the_log(place: Place) -> None:
    """The operator hears of senders with a wrong key: once, with the reason and without what they sent."""
    with local_daemon(place) as daemon:
        url = f"http://{address_of(daemon)}/v1/track"
        answers = [
            httpx.post(url, json={"writeKey": "wrong_key", "event": "x"}, verify=False).status_code for _ in range(3)
        ]
        daemon.wait_for("requests_rejected")
    told = [line for line in daemon.logged if line["event"] == "requests_rejected"]

    assert answers == [401] * 3
    assert [(line["status"], line["why"]) for line in told] == [(401, "the write key is missing or unknown")]
    assert "wrong_key" not in repr(daemon.logged)


@ON_ONE_DATABASE
def test_start_that_cannot_take_events(place: Place) -> None:
    """A missing key is a mistake of a person, a port that is taken may be free later; neither starts a sync."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listening(place, address)
        refused = place.command("run")
    place.environment["SEGMENT_WRITE_KEY"] = ""
    keyless = place.command("run")

    assert refused.code == 1
    assert f"error: cannot listen for events on {address}: Address already in use" in refused.err
    assert keyless.code == 2
    assert "the write key is missing: " in keyless.err
    assert place.rows("SELECT * FROM runs") == []
