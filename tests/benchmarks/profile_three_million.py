"""How long `profile USER` takes to find what Schematic accepted of one person, among three million accepted events.

Usage: python -m tests.benchmarks.profile_three_million [EVENTS] [--database sqlite|postgres]

The worst case: batches of random people, as of forwarded events and of many small runs, full ones and ones of ten
events. The time is that of the query, with the file in the cache of the system; the command adds its start.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import orjson

from audience_sync.core.keys import shard_of
from audience_sync.store import bulk, profile_report, schema
from audience_sync.store.database import Database, connect
from audience_sync.store.migration import migrate
from tests.benchmarks.sync_one_million import database_url

PEOPLE = [f"user-{n:07d}" for n in range(1_000_000)]
WANTED = random.Random(2).sample(PEOPLE, 5)
AT = 1_774_958_400_000
COLUMNS = ("id", "forwarded", "status", "created_at", "accepted_at", "http_status", "shards", "size", "keys", "events")


def batches(dice: random.Random, *, count: int, size: int) -> Iterator[Sequence[object]]:
    """Yield rows of accepted batches."""
    for number in range(1, count + 1):
        some = dice.sample(PEOPLE, size)
        told = [(key, f"{dice.getrandbits(128):032x}", None) for key in some]
        events = orjson.dumps([['{"big_spenders":true}', "[1]", "Identify User", told]]).decode()
        shards = " ".join(map(str, sorted(set(map(shard_of, some)))))
        yield (
            number, False, "accepted", AT + number, AT + number, 200, f" {shards} ", size, orjson.dumps(some).decode(),
            events,
        )  # fmt: skip


def measure(database: Database, *, events: int, size: int) -> None:
    """Fill a database and print how long the deliveries of some people take."""
    left_out = {column.name for column in schema.batches.columns} - set(COLUMNS)
    columns = [column.name for column in schema.batches.columns if column.name not in left_out]
    order = [COLUMNS.index(name) for name in columns]
    rows = (tuple(row[n] for n in order) for row in batches(random.Random(1), count=events // size, size=size))
    with database.write() as connection:
        bulk.insert(connection, schema.batches, rows, without=left_out)
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE batches")
    times = []
    for user in WANTED:
        began = time.perf_counter()
        with database.read() as connection:
            profile_report.deliveries(connection, user, at_most=20)
        times.append(time.perf_counter() - began)
    print(f"{events:,} events in batches of {size}: {sorted(times)[len(times) // 2]:.2f} s, {max(times):.2f} s at most")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", nargs="?", type=int, default=3_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    asked = parser.parse_args()
    for size in (100, 10):
        with tempfile.TemporaryDirectory() as folder, database_url(asked.database) as url:
            place = url.replace("sqlite:///", f"sqlite:///{folder}/")
            with closing(connect(place, create=True)) as database:
                migrate(database)
                measure(database, events=asked.events, size=size)


if __name__ == "__main__":
    main()
