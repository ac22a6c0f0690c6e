"""How long a sync takes beside merely iterating the same rows, and how much memory it needs.

Usage: python tests/benchmarks/sync_one_million.py [MEMBERS]

Three syncs: initial, nothing changed, 1 % changed. The source is a SQLite table in random order, the membership
database a SQLite file; nothing is delivered. Every step runs in a process of its own, so that its peak memory is its
own. The ratio is to the median of the iterations of the same run.
"""

from __future__ import annotations

import json
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from audience_sync import app
from audience_sync.config import load
from audience_sync.seams import Seams
from audience_sync.sync import Job, sync

CONFIG = """
[sources.shop]
url = "sqlite:///shop.db"
[[audiences]]
name = "Everybody"
sql = "SELECT user_id, company_id FROM users"
company_keys = { groupId = "company_id" }
"""
ROW = ("usr_{:08d}", "acct_{:06d}")


def make_source(folder: Path, members: int) -> None:
    """Write a shuffled table of users."""
    numbers = list(range(members))
    random.Random(1).shuffle(numbers)
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("CREATE TABLE users (user_id TEXT, company_id TEXT)")
        shop.executemany(
            "INSERT INTO users VALUES (?, ?)", ((ROW[0].format(n), ROW[1].format(n % 50_000)) for n in numbers)
        )
    (folder / "config.toml").write_text(CONFIG)


def change_source(folder: Path, members: int) -> None:
    """Let half a percent leave and half a percent enter."""
    half = members // 200
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("DELETE FROM users WHERE rowid IN (SELECT rowid FROM users ORDER BY rowid LIMIT ?)", (half,))
        shop.executemany(
            "INSERT INTO users VALUES (?, ?)",
            ((ROW[0].format(members + n), ROW[1].format(n % 50_000)) for n in range(half)),
        )


def iterate(folder: Path) -> dict[str, float]:
    """Read the same rows with the bare driver."""
    started = time.perf_counter()
    shop = sqlite3.connect(folder / "shop.db")
    cursor = shop.execute("SELECT user_id, company_id FROM users")
    while cursor.fetchmany(20_000):
        pass
    return _figures(started)


def step(folder: Path) -> dict[str, float]:
    """Sync once."""
    settings = load(folder / "config.toml", {})
    app.create(settings)
    started = time.perf_counter()
    with app.working(settings, Seams()) as workspace:
        run = sync(workspace, Job(settings=settings, audience=settings.audiences[0])).run
    return {**_figures(started), "entered": run.counts.entered, "exited": run.counts.exited}


def _figures(started: float) -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "megabytes": usage.ru_maxrss / 1024,
    }


def _in_a_process(what: str, folder: Path) -> dict[str, float]:
    out = subprocess.run([sys.executable, __file__, what, str(folder)], check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(out.stdout)
    return figures


def main(members: int) -> None:
    """Run every step and print a line each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_source(folder, members)
        floor = [_in_a_process("iterate", folder) for _ in range(2)]
        steps = {"initial": _in_a_process("step", folder), "0 % changed": _in_a_process("step", folder)}
        change_source(folder, members)
        steps["1 % changed"] = _in_a_process("step", folder)
        floor += [_in_a_process("iterate", folder) for _ in range(2)]
        iterate_seconds = statistics.median(f["seconds"] for f in floor)
        size = (folder / "audience_sync.db").stat().st_size
        print(f"{members:,} members, iterating them {iterate_seconds:.2f} s, state {size / members:.0f} bytes a member")
        for title, f in steps.items():
            print(
                f"{title:12} {f['seconds']:7.2f} s = {f['seconds'] / iterate_seconds:5.1f} x iterate,"
                f" peak {f['megabytes']:.0f} MB, {f['entered']:,.0f} entered, {f['exited']:,.0f} exited"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["iterate"]:
        print(json.dumps(iterate(Path(sys.argv[2]))))
    elif sys.argv[1:2] == ["step"]:
        print(json.dumps(step(Path(sys.argv[2]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
