"""How long an initial sync takes from the source to Schematic, beside another build of the program in the same run.

Usage: python tests/benchmarks/deliver_one_million.py [MEMBERS] [--against PATH/TO/audience-sync] [--rounds N]

The source is a SQLite table in random order, the membership database a SQLite file, and Schematic a sink on loopback
that reads every batch and counts its events. The builds take turns; the ratio is that of their medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.benchmarks.sync_one_million import make_source

CONFIG = """
[schematic]
capture_url = "{url}"
api_url = "{url}"
[delivery]
max_requests_per_second = 1000000
"""


class Sink:
    """An HTTP server that accepts whatever is posted, and counts idempotency keys."""

    def __init__(self, *, latency: float = 0.0) -> None:
        self.events = 0
        self._latency = latency  # seconds before each answer to a batch
        self._loop = asyncio.new_event_loop()
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
            except asyncio.IncompleteReadError:
                writer.close()
                return
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            self.events += max(body.count(b'"idempotency_key"'), body.count(b'"idempotencyKey"'))
            if length and self._latency:
                await asyncio.sleep(self._latency)
            answer = b'{"data":{"environment_id":"env_1","id":"env_1"}}'
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
            )
            writer.write(answer)


def run(command: str, source: Path, sink: Sink, *, more: str = "") -> float:
    """Sync once into a new database, and return how many seconds it took; `more` is of the section `[delivery]`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(source / "shop.db", folder)
        text = CONFIG.format(url=sink.url) + more + (source / "config.toml").read_text()
        (folder / "config.toml").write_text(text)
        before, cpu, started = sink.events, _cpu(), time.perf_counter()
        done = subprocess.run(
            [command, "--config", str(folder / "config.toml"), "sync", "--create"],
            env={**os.environ, "SCHEMATIC_API_KEY": "sch_dev_benchmark"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        print(f"{command}: {seconds:.2f} s, {_cpu() - cpu:.2f} s CPU, {sink.events - before:,} events", flush=True)
        return seconds


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Let the builds take turns and print the ratio of their medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("members", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--against")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    mine = str(Path(sys.executable).with_name("audience-sync"))
    commands = [mine, *([given.against] if given.against else [])]
    sink = Sink()
    with tempfile.TemporaryDirectory() as name:
        make_source(Path(name), given.members, url="sqlite:///audience_sync.db", company=True)
        times: dict[str, list[float]] = {command: [] for command in commands}
        for _ in range(given.rounds):
            for command in commands:
                times[command].append(run(command, Path(name), sink))
    medians = [statistics.median(times[command]) for command in commands]
    line = (
        f"{given.members:,} members from source to sink: {medians[0]:.1f} s, {given.members / medians[0]:,.0f} a second"
    )
    print(line + (f", {medians[0] / medians[1]:.2f} x {given.against}" if given.against else ""))


if __name__ == "__main__":
    main()
