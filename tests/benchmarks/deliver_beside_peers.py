"""An initial sync from the source to Schematic beside dlt, a script on Schematic's own client, and one event a request.

Usage: python tests/benchmarks/deliver_beside_peers.py [MEMBERS] [--rounds N] [--single N]

All read the same SQLite table and post to the same sink on loopback; they take turns, each in a process of its own. dlt
(`pip install 'dlt[sql_database]'`) loads batches of a hundred through `@dlt.destination`; the script keeps its members
in a SQLite file and pushes into the client's `EventBuffer`. One event a request is what Segment's own destination for
Schematic does: `--single` of them are timed. Imports are not counted for the peers; for audience-sync everything is.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.benchmarks.deliver_one_million import Sink, run
from tests.benchmarks.sync_one_million import make_source

QUERY = "SELECT user_id, company_id FROM users"
KEY = "sch_dev_benchmark"


def identify(user: str, company: str) -> dict[str, object]:
    """Return the event that all of them send."""
    return {
        "api_key": KEY,
        "type": "identify",
        "body": {"keys": {"userId": user}, "traits": {"everybody": True}, "company": {"keys": {"groupId": company}}},
        "idempotency_key": f"everybody-{user}",
        "sent_at": "2026-01-01T00:00:00.000Z",
    }


def by_dlt(folder: Path, url: str) -> float:
    """Extract, normalize and load the table with dlt; return the seconds."""
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": str(folder / "dlt")}
    dlt: Any = import_module("dlt")
    sql_table: Any = import_module("dlt.sources.sql_database").sql_table
    client = httpx.Client(timeout=30)

    def schematic(items: list[dict[str, str]], _table: object) -> None:
        events = [identify(item["user_id"], item["company_id"]) for item in items]
        client.post(f"{url}/batch", content=orjson.dumps({"events": events})).raise_for_status()

    destination = dlt.destination(schematic, batch_size=100, name="schematic", skip_dlt_columns_and_tables=True)
    source = sql_table(f"sqlite:///{folder / 'shop.db'}", table="users", chunk_size=10_000)
    pipeline = dlt.pipeline("benchmark", destination=destination, dataset_name="audiences", pipelines_dir=str(folder))
    started = time.perf_counter()
    pipeline.run(source)
    return time.perf_counter() - started


def by_client(folder: Path, url: str) -> float:
    """Compare with what a SQLite file remembers, and push what is new into Schematic's own client."""
    from schematic.event_buffer import EventBuffer  # noqa: PLC0415 - only this peer needs it
    from schematic.event_capture import EventCaptureClient  # noqa: PLC0415
    from schematic.types import (  # noqa: PLC0415
        CreateEventRequestBody,
        EventBodyIdentify,
        EventBodyIdentifyCompany,
    )

    started = time.perf_counter()
    state = sqlite3.connect(folder / "state.db")
    state.execute("CREATE TABLE members (user_id TEXT PRIMARY KEY, company_id TEXT)")
    now = dict(sqlite3.connect(folder / "shop.db").execute(QUERY))
    entered = now.keys() - dict(state.execute("SELECT user_id, company_id FROM members")).keys()
    buffer = EventBuffer(EventCaptureClient(KEY, base_url=url), logging.getLogger("peer"))
    for user in entered:
        body = EventBodyIdentify(
            keys={"userId": user},
            traits={"everybody": True},
            company=EventBodyIdentifyCompany(keys={"groupId": now[user]}),
        )
        buffer.push(
            CreateEventRequestBody(
                event_type="identify", body=body, idempotency_key=f"everybody-{user}", sent_at=datetime.now(UTC)
            )
        )
    buffer.stop()
    with state:
        state.executemany("INSERT INTO members VALUES (?, ?)", ((user, now[user]) for user in entered))
    return time.perf_counter() - started


def one_by_one(folder: Path, url: str, count: int) -> float:
    """Post so many events, one in each request; return the seconds."""
    rows = sqlite3.connect(folder / "shop.db").execute(f"{QUERY} LIMIT ?", (count,)).fetchall()
    with httpx.Client() as client:
        started = time.perf_counter()
        for user, company in rows:
            client.post(f"{url}/e", content=orjson.dumps(identify(user, company))).raise_for_status()
        return time.perf_counter() - started


def _in_a_process(peer: str, source: Path, sink: Sink) -> float:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "shop.db").symlink_to(source / "shop.db")
        before = sink.events
        arguments = [sys.executable, __file__, "--peer", peer, name, sink.url]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        seconds = float(json.loads(done.stdout.splitlines()[-1]))
        print(f"{peer}: {seconds:.2f} s, {sink.events - before:,} events", flush=True)
        return seconds


def main() -> None:
    """Let them take turns, and print each one's rate and the ratios of the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("members", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--single", type=int, default=10_000)
    given = parser.parse_args()
    mine = str(Path(sys.executable).with_name("audience-sync"))
    sink = Sink()
    times: dict[str, list[float]] = {"audience-sync": [], "dlt": [], "client": []}
    with tempfile.TemporaryDirectory() as name:
        make_source(Path(name), given.members, url="sqlite:///audience_sync.db", company=True)
        for _ in range(given.rounds):
            times["audience-sync"].append(run(mine, Path(name), sink))
            for peer in ("dlt", "client"):
                times[peer].append(_in_a_process(peer, Path(name), sink))
        single = given.single / one_by_one(Path(name), sink.url, given.single)
    rates = {who: given.members / statistics.median(seconds) for who, seconds in times.items()}
    ours = rates["audience-sync"]
    print(
        f"{given.members:,} members from source to sink: {ours:,.0f} events a second,"
        f" {ours / rates['dlt']:.2f} x dlt, {ours / rates['client']:.2f} x a script on Schematic's client,"
        f" {ours / single:.1f} x one event a request"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        work = {"dlt": by_dlt, "client": by_client}[sys.argv[2]]
        print(json.dumps(work(Path(sys.argv[3]), sys.argv[4])))
    else:
        main()
