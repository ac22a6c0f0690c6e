"""The commands sandbox and demo, which need no configuration and no network."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer
from rich.text import Text

from audience_sync.cli.context import console, out
from audience_sync.cli.story import empty_folder, tell
from audience_sync.config import parse_duration
from audience_sync.sandbox import DEVELOPMENT_KEY, FaultRule, Ledger, Sandbox
from audience_sync.signals import stoppable

POLL_INTERVAL = 0.1  # seconds between two reads of the sandbox's ledger

_REQUESTS: Final = "SELECT id, at, path, status, events, fault FROM requests WHERE id > ? ORDER BY id"
_EVENTS: Final = """
SELECT request_id, max(id), count(*), sum(status = 'duplicate'), sum(status = 'failed') FROM events
WHERE id > ? AND request_id <= ? GROUP BY request_id
"""
_LAST: Final = "SELECT coalesce((SELECT max(id) FROM requests), 0), coalesce((SELECT max(id) FROM events), 0)"


def moment(text: str) -> timedelta:
    """Return a duration such as 50ms, 2s or 1m."""
    if match := re.fullmatch(r"(\d{1,9})ms", text, re.ASCII):
        return timedelta(milliseconds=int(match[1]))
    try:
        return parse_duration(text)
    except ValueError:
        raise typer.BadParameter(f'{text!r} is not a valid duration such as "50ms" or "2s"') from None


FailRate = Annotated[
    float | None, typer.Option(min=0, max=1, metavar="RATE", help="Fraction of event requests to fail (0–1).")
]
FailStatus = Annotated[
    int | None,
    typer.Option(
        min=300,
        max=599,
        metavar="STATUS",
        help="Status of failing requests, by default 500; without --fail-rate all fail.",
    ),
]
Delay = Annotated[
    timedelta, typer.Option(parser=moment, metavar="DURATION", help="Delay before an event request is answered.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: audience-sync demo --folder /tmp/shop")(demo)
    app.command(epilog="Example: audience-sync sandbox --fail-rate 0.3 --delay 50ms")(sandbox)


def sandbox(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 picks a free one.")
    ] = 8480,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; the default accepts connections from this machine only."
        ),
    ] = "127.0.0.1",
    database: Annotated[Path, typer.Option(metavar="FILE", help="SQLite file that stores everything received.")] = Path(
        "sandbox.db"
    ),
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--key", metavar="KEY", help="An API key to accept; may be repeated.", show_default=DEVELOPMENT_KEY
        ),
    ] = None,
    fail_rate: FailRate = None,
    fail_status: FailStatus = None,
    delay: Delay = "0ms",  # type: ignore[assignment]  # Typer parses it
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show every request.")] = False,
) -> None:
    """Run a local Schematic until Ctrl-C.

    Accepts events, applies Schematic's limits, and fails on request. Needs no configuration. Everything received is
    stored in --database.
    """
    accepted = keys or [DEVELOPMENT_KEY]
    with stoppable(_nothing) as stop, Sandbox(database, port=port, host=host, api_keys=accepted) as server:
        seen, totals = _Seen(*server.ledger.read(_LAST)[0]), Counter[str]()
        server.faults.set(_rules(fail_rate, fail_status, delay.total_seconds()))
        _announce(server.url, accepted, database)
        while not stop.wait(POLL_INTERVAL):
            seen = _show_new(server.ledger, seen, totals, quiet=quiet)
        _show_new(server.ledger, seen, totals, quiet=quiet)
    console.print(Text(f"{_summary(totals)}; stored in {database}"))


def demo(
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder to create; by default ./audience-sync-demo, or the next free name."
        ),
    ] = None,
) -> None:
    """Sync a small example shop into a local Schematic.

    Takes a few seconds and needs no network. Everything stays in one folder, with commands to continue from there.
    """
    with stoppable(_nothing) as stop, closing(tell(empty_folder(folder))) as story:
        try:
            for _ in story:
                if stop.is_set():
                    break
        finally:  # a step that was interrupted may say so itself
            if stop.is_set():
                raise KeyboardInterrupt


def _nothing() -> None:
    """Print nothing about a signal: the command ends at once."""


class _Seen(NamedTuple):
    """The newest request and event of the sandbox's ledger that were read."""

    request: int
    event: int


def _rules(rate: float | None, status: int | None, delay: float) -> list[FaultRule]:
    """Return the requested faults; the delay, in seconds, applies to all requests."""
    if rate is None:
        rate = 0.0 if status is None else 1.0
    failing = FaultRule(rate=rate, status=status or 500, delay=delay)
    return [failing, FaultRule(delay=delay)] if delay else [failing]


def _announce(url: str, keys: list[str], database: Path) -> None:
    out.print(
        Text(f"A local Schematic serves at {url} and stores everything it receives in {database}; Ctrl-C stops it.")
    )
    typer.echo(f"API key: {', '.join(keys)}")
    typer.echo("\nIn the configuration:\n\n[schematic]")
    typer.echo(f'api_key = "${{SCHEMATIC_API_KEY}}"  # export SCHEMATIC_API_KEY={keys[0]}')
    typer.echo(f'capture_url = "{url}"\napi_url = "{url}"\n')


def _show_new(ledger: Ledger, seen: _Seen, totals: Counter[str], *, quiet: bool) -> _Seen:
    """Print and count the requests since `seen`; a ledger that was emptied since then is read from its start."""
    last = _Seen(*ledger.read(_LAST)[0])
    if last.request < seen.request:
        seen = _Seen(0, 0)
    requests = ledger.read(_REQUESTS, (seen.request,))
    if not requests:
        return seen
    newest = requests[-1][0]
    taken = {request: rest for request, *rest in ledger.read(_EVENTS, (seen.event, newest))}
    for request, at, path, status, events, fault in requests:
        _, count, duplicates, failed = taken.get(request, (0, 0, 0, 0))
        totals.update({"requests": 1, f"answered {status or 'nothing'}": 1})
        totals.update(processed=count - duplicates - failed, duplicates=duplicates, failed=failed)
        if not quiet:
            details = [f"{events} events"] if events else []
            details += [f"{n} {word}" for n, word in ((duplicates, "duplicates"), (failed, "failed")) if n]
            details += [f"fault: {fault}"] if fault else []
            typer.echo(f"{at[11:23]}  {status or '---'}  {path}  {', '.join(details)}".rstrip(), err=True)
    return _Seen(newest, max([seen.event, *(found[0] for found in taken.values())]))


def _summary(totals: Counter[str]) -> str:
    answers = ", ".join(f"{n:,} {answer}" for answer, n in sorted(totals.items()) if answer.startswith("answered"))
    events = ", ".join(f"{totals[status]:,} {status}" for status in ("processed", "duplicates", "failed"))
    return f"received {totals['requests']:,} requests{answers and f' ({answers})'}; events: {events}"
