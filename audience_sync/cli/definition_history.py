"""Print the versions of an audience's definition, each with what distinguishes it from the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import typer
from rich.text import Text

from audience_sync.cli.console import Format, print_records
from audience_sync.cli.context import console, out
from audience_sync.core.text import counted, instant_text, printable
from audience_sync.store.definition_texts import VERSION_COLUMNS
from audience_sync.store.reports import Record

_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}
_UNKNOWN: Final = "(the text of this version is not stored)"
_UNSEEN: Final = "(the same text: an audience that it uses, or where the source has events and profiles, has changed)"


def print_versions(versions: Iterable[Record], *, format: Format, limit: int) -> None:
    """Print the first `limit` versions (0: all), newest first."""
    if format is not Format.TABLE:
        print_records(versions, VERSION_COLUMNS, format=format, limit=limit)
        return
    coming = iter(versions)
    for number, version in enumerate(islice(coming, limit or None)):
        _print([*([Text()] if number else []), Text(_heading(version), style="bold"), *_body(version)])
    if more := sum(1 for _ in coming):
        console.print(f"… {counted(more, 'older version')} more; --limit 0 shows all")


def _print(lines: Iterable[Text]) -> None:
    """Print lines as they are, so that a diff can be applied; Rich would replace their tabs."""
    if out.is_seen:
        out.print_lines(lines)
    else:
        typer.echo("\n".join(line.plain for line in lines))


def _heading(version: Record) -> str:
    name = f"version {version['version']}"
    if version["run_id"] is None:
        return f"{name}, in the configuration, not synced yet"
    after = version["members_after"]
    members = f"{version['members_before']:,}{'' if after is None else f' → {after:,}'}"
    of = "" if version["runs"] == 1 else f", the first of {counted(version['runs'], 'run')}"
    state = "" if version["state"] == "succeeded" else f", {version['state']}"
    return f"{name}, since {instant_text(version['since'])}, run {version['run_id']}{state}{of}: {members} members"


def _body(version: Record) -> Iterator[Text]:
    text, difference = version["text"], version["difference"]
    if text is None:
        yield Text(_UNKNOWN)
    elif difference is None:  # the first, or the one before is unknown
        yield from (Text(printable(line, lines=True)) for line in text.splitlines())
    elif not difference:
        yield Text(_UNSEEN)
    else:
        for line in difference.splitlines():
            yield Text(printable(line, lines=True), style=_STYLES.get(line[:1], ""))
