"""Print the output of `preview`: the number of members, a summary of their values, and a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import orjson
import typer

from audience_sync.cli.console import Format, harmless, json_line, print_facts, print_records
from audience_sync.cli.text_table import Record, TableView
from audience_sync.config import Audience
from audience_sync.core.text import counted, instant_text, short_duration
from audience_sync.segment.timestamps import iso
from audience_sync.sync.preview import AudiencePreview, Values

SAMPLE_COLUMNS: Final = ("profile_key", "value", "identifiers")
TRAIT_SHOWN: Final = TableView(SAMPLE_COLUMNS, optional=("identifiers",))
MEMBER_SHOWN: Final = TableView(("profile_key", "identifiers"), optional=("identifiers",))


def show(audience: Audience, found: AudiencePreview, *, as_of: datetime, seconds: float, format: Format) -> None:
    """Print a preview and its duration in seconds."""
    match format:
        case Format.JSON:
            typer.echo(json_line(_whole(audience, found, as_of=as_of, seconds=seconds)), nl=False)
        case Format.CSV:
            print_records(_sample(found), SAMPLE_COLUMNS, format=format)
        case Format.TABLE:
            print_facts(_facts(audience, found, as_of=as_of, seconds=seconds))
            if found.sample:
                typer.echo("\nsample:")
                is_trait = audience.computation.has_values
                print_records(
                    _sample(found), SAMPLE_COLUMNS, format=format, shown=TRAIT_SHOWN if is_trait else MEMBER_SHOWN
                )


def _facts(audience: Audience, found: AudiencePreview, *, as_of: datetime, seconds: float) -> list[tuple[str, str]]:
    is_trait = audience.computation.has_values
    facts = (
        ("trait" if is_trait else "audience", f"{audience.key} as of {instant_text(iso(as_of))}"),
        ("size", f"{found.size:,} {'profiles have a value' if is_trait else 'members'}"),
        ("read", f"{counted(found.read, 'row')} in {short_duration(timedelta(seconds=round(seconds, 1)))}"),
        ("rejected", _reasons(found, rejected=True)),
        ("note", _reasons(found, rejected=False)),
        *_values(found.values),
    )
    return [(name, text) for name, text in facts if text]


def _reasons(found: AudiencePreview, *, rejected: bool) -> str:
    """Return the number of rejected rows and the reasons, or other remarks on the rows."""
    reasons = {one: n for one, n in sorted(found.reasons.items()) if one.keeps_member != rejected}
    listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    return f"{counted(found.rejected, 'row')}: {listed}" if rejected and listed else listed


def _values(values: Values) -> Iterator[tuple[str, str]]:
    about = "about " if values.are_sampled else ""
    if values.numbers:
        yield "numbers", f"min {values.least:,}, median {about}{values.middle:,}, max {values.greatest:,}"
    if values.frequent:
        listed = ", ".join(f"{about}{count:,} × {harmless(value)}" for value, count in values.frequent.items())
        yield "frequent", listed


def _whole(audience: Audience, found: AudiencePreview, *, as_of: datetime, seconds: float) -> Record:
    values = found.values
    return {
        "audience": audience.key,
        "computation": audience.computation.value,
        "as_of": iso(as_of),
        "size": found.size,
        "read": found.read,
        "rejected": found.rejected,
        "reasons": {reason.value: count for reason, count in sorted(found.reasons.items())},
        "min": values.least,
        "median": values.middle,
        "max": values.greatest,
        "frequent": [{"count": count, "value": orjson.Fragment(value)} for value, count in values.frequent.items()],
        "seconds": round(seconds, 3),
        "sample": _sample(found),
    }


def _sample(found: AudiencePreview) -> Sequence[Record]:
    return [
        dict(zip(SAMPLE_COLUMNS, (one.profile_key, one.value, one.identifiers), strict=True)) for one in found.sample
    ]
