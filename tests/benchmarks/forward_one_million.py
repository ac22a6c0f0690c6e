"""How fast `forward` sends a file of events, beside sending them one per request, and how much memory it needs.

Usage: python tests/benchmarks/forward_one_million.py [--events N] [--gzip] [--single N]

The file has identifies, tracks and pages of N / 10 users, in no order; the presets are the mappings, which want no
page. The membership database is a SQLite file, and Schematic a sink on loopback that reads every request. A tenth of
the file goes first: that the peaks of both are close shows that memory does not grow with the file (it levels off after
four windows). One event per request is what Segment's destination does; here over one connection that is kept, with
bodies of the same mappings.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import httpx

from audience_sync import runtime
from audience_sync.config import load
from audience_sync.destinations.mappings import presets
from audience_sync.destinations.schematic.schematic_actions import ACTIONS
from audience_sync.destinations.schematic.wire_format import with_key
from audience_sync.tracking_api.event_files import Read, open_events, preview, read_events
from tests.benchmarks.deliver_one_million import CONFIG, Sink

KEY = "sch_dev_benchmark"
SOURCE = '[sources.shop]\nurl = "sqlite:///shop.db"\n'
SINGLE = 20_000  # events that are sent one per request


class Done(NamedTuple):
    """How a forwarding went."""

    seconds: float
    cpu: float  # seconds
    megabytes: float  # at most
    database: float  # megabytes, in the end


def make_events(count: int) -> Iterator[bytes]:
    """Yield events of about 700 bytes as lines."""
    dice = random.Random(1)
    for n in range(count):
        user = dice.randrange(max(1, count // 10))
        event = {
            "messageId": f"ajs-next-{n:012d}-{user:08x}",
            "userId": f"usr_{user:08d}",
            "anonymousId": f"{user * 7919:032x}",
            "timestamp": f"2026-11-{n % 28 + 1:02d}T{n % 24:02d}:{n % 60:02d}:00.000Z",
            "sentAt": "2026-11-23T12:00:00.000Z",
            "context": {
                "ip": "203.0.113.7",
                "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0",
                "library": {"name": "analytics.js", "version": "npm:next-1.76.0"},
                "page": {"path": "/checkout", "title": "Check out", "url": "https://shop.example/checkout"},
                "groupId": f"acct_{user % 5000:06d}",
            },
            "integrations": {},
        }
        if n % 20 == 0:
            event |= {"type": "page", "name": "Check out", "properties": {"path": "/checkout"}}
        elif n % 4 == 0:
            event |= {"type": "identify", "traits": {"plan": "pro", "seats": n % 50, "name": f"User {user}"}}
        else:
            properties = {"order_id": f"o{n}", "revenue": n % 1000 / 10, "currency": "EUR", "items": n % 7}
            event |= {"type": "track", "event": "Order Completed", "properties": properties}
        yield json.dumps(event).encode() + b"\n"


def make_file(path: Path, count: int, *, packed: bool) -> None:
    """Write a file of events."""
    with ExitStack() as opened:
        file: io.BufferedIOBase = opened.enter_context(path.open("wb"))
        if packed:
            file = opened.enter_context(cast("io.BufferedIOBase", gzip.GzipFile(fileobj=file, mode="wb")))
        file.writelines(make_events(count))


def forward(file: Path, sink: Sink) -> Done:
    """Send a file into a new database."""
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "config.toml"
        config.write_text(CONFIG.format(url=sink.url) + SOURCE)
        runtime.create(load(config, {}))
        words = [str(Path(sys.executable).with_name("audience-sync")), "--config", str(config), "forward", str(file)]
        started = time.perf_counter()
        with (Path(name) / "err").open("w+") as err:
            process = subprocess.Popen(
                words, env={**os.environ, "SCHEMATIC_API_KEY": KEY}, stdout=subprocess.DEVNULL, stderr=err
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            if status:
                err.seek(0)
                raise SystemExit(err.read())
        database = sum(path.stat().st_size for path in Path(name).glob("audience_sync.db*"))
        return Done(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, database / 1e6)


def send_singly(file: Path, url: str, count: int) -> float:
    """Send the first events one per request, and return how many seconds it took."""
    mappings = presets(ACTIONS.values())
    shown = partial(preview, destination="Schematic", posted=partial(with_key, api_key=KEY))
    events = 0
    started = time.perf_counter()
    with httpx.Client(base_url=url, trust_env=False) as client, open_events(str(file)) as stream:
        for read in read_events(stream, name=str(file)):
            assert isinstance(read, Read)
            for _, body in shown(read, mappings).bodies:
                client.post("/e", content=body, headers={"Content-Type": "application/json"}).raise_for_status()
            events += 1
            if events == count:
                break
    return time.perf_counter() - started


def main() -> None:
    """Send a tenth of the file, one event per request, and the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--single", type=int, default=SINGLE)
    given = parser.parse_args()
    sink = Sink()
    with tempfile.TemporaryDirectory() as name:
        file, tenth = Path(name) / "events", Path(name) / "tenth"
        make_file(file, given.events, packed=given.gzip)
        make_file(tenth, given.events // 10, packed=given.gzip)
        print(f"{given.events:,} events in a file of {file.stat().st_size / 1e6:,.0f} MB", flush=True)
        small = forward(tenth, sink)
        show("a tenth", given.events // 10, small)
        words = [sys.executable, __file__, "--send-singly", str(file), sink.url, str(given.single)]
        single = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        print(f"one per request: {given.single:,} events in {single:.1f} s, {given.single / single:,.0f}/s", flush=True)
        before = sink.events
        whole = forward(file, sink)
        show("the file", given.events, whole)
    ratio = given.events / whole.seconds / (given.single / single)
    print(
        f"{given.events:,} events ({sink.events - before:,} bodies) in {whole.seconds:.1f} s:"
        f" {given.events / whole.seconds:,.0f}/s, {ratio:.1f} x one per request; peak {whole.megabytes:.0f} MB,"
        f" {whole.megabytes / small.megabytes:.2f} x that of a tenth"
    )


def show(what: str, events: int, done: Done) -> None:
    """Print how a forwarding went."""
    print(
        f"{what}: {events:,} events in {done.seconds:.1f} s, {events / done.seconds:,.0f}/s,"
        f" {done.cpu / events * 1e6:.1f} µs of CPU each,"
        f" peak {done.megabytes:.0f} MB, database {done.database:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--send-singly"]:
        print(send_singly(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
    else:
        main()
