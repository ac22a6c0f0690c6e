"""The options that take a time: `--now`, `--as-of`, and `--since` with `--until`.

A time without a zone is in the time zone of `[schedule]`; see `query.relative_times`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, NamedTuple

import typer

from audience_sync.cli.context import clock
from audience_sync.config import Settings
from audience_sync.core.model import to_ms
from audience_sync.core.text import instant_text
from audience_sync.query.relative_times import WrittenTime, read_time
from audience_sync.store.reports import iso


def written_time(text: str) -> WrittenTime:
    """Return the time in an option."""
    try:
        return read_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def time_option(name: str, help: str) -> Any:
    """Return an option that takes a time."""
    return typer.Option(name, parser=written_time, metavar="TIME", help=help)


Now = Annotated[
    WrittenTime | None, time_option("--now", "Evaluate with :now set to this time (default: the current time).")
]


def instant(settings: Settings, written: WrittenTime | None) -> datetime | None:
    """Return the instant that an option means, in UTC; None without the option."""
    return None if written is None else written.at(clock().now(), settings.schedule.zone)


class TimeRange(NamedTuple):
    """From an instant until before another, both in milliseconds since 1970; None: no limit."""

    since_ms: int | None = None
    until_ms: int | None = None


def time_range(settings: Settings, since: WrittenTime | None, until: WrittenTime | None) -> TimeRange:
    """Return the range between `--since` and `--until`.

    Raises:
        typer.BadParameter: it is empty.
    """
    first, last = instant(settings, since), instant(settings, until)
    found = TimeRange(None if first is None else to_ms(first), None if last is None else to_ms(last))
    if found.since_ms is not None and found.until_ms is not None and found.until_ms <= found.since_ms:
        begin, end = (instant_text(iso(milliseconds)) for milliseconds in found)
        raise typer.BadParameter(f"--until ({end}) must be later than --since ({begin})")
    return found
