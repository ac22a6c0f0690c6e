"""How near a delivery comes to what the answers' latency allows.

Usage: python tests/benchmarks/deliver_with_latency.py [MEMBERS] [--connections N] [--milliseconds N]

The sink answers every batch after so many milliseconds; nothing can be faster than connections x 100 events in that
time. Only the delivery is timed, start of the program included: the members are in the outbox already.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.deliver_one_million import CONFIG, Sink
from tests.benchmarks.sync_one_million import make_source


def main() -> None:
    """Deliver once and print the share of what latency allows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("members", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--milliseconds", type=int, default=50)
    given = parser.parse_args()
    command = str(Path(sys.executable).with_name("audience-sync"))
    sink = Sink(latency=given.milliseconds / 1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_source(folder, given.members, url="sqlite:///audience_sync.db", company=True)
        config = folder / "config.toml"
        audience = config.read_text()
        config.write_text(f"{CONFIG.format(url=sink.url)}concurrency = {given.connections}\n{audience}")

        def audience_sync(*words: str) -> float:
            started = time.perf_counter()
            environ = {**os.environ, "SCHEMATIC_API_KEY": "sch_dev_benchmark"}
            subprocess.run(
                [command, "--config", str(config), *words], env=environ, capture_output=True, text=True, check=True
            )
            return time.perf_counter() - started

        audience_sync("sync", "--create", "--no-deliver")
        rate = given.members / audience_sync("deliver")
    bound = given.connections * 100 / (given.milliseconds / 1000)
    print(
        f"{given.members:,} events to a sink of {given.milliseconds} ms over {given.connections} connections:"
        f" {rate:,.0f} a second, {rate / bound:.0%} of what latency allows ({bound:,.0f})"
    )


if __name__ == "__main__":
    main()
