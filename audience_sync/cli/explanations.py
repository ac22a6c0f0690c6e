"""What `explain` prints: a tree of conditions with their values and events for people, records for programs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import Final

import orjson
from rich.text import Text

from audience_sync.audiences.explanation import Clause, Explanation, Fact, asked_for
from audience_sync.cli.context import out
from audience_sync.cli.output import Format, Sheet, harmless, json_line
from audience_sync.cli.paragraph import wrap
from audience_sync.cli.standing import Standing
from audience_sync.cli.table import Record
from audience_sync.core.model import Computation
from audience_sync.core.text import instant_text, printable
from audience_sync.query.printer import to_text
from audience_sync.query.syntax_tree import And, Not, Or, Reduction
from audience_sync.segment.timestamps import iso

COLUMNS: Final = (
    "audience", "user", "as_of", "node", "kind", "text", "holds", "value", "at", "properties", "identifiers", "run_id",
)  # fmt: skip
_AS_JSON: Final = ("value", "properties", "identifiers")  # hold JSON text, nested in JSON
_EMPTY: Final[Record] = dict.fromkeys(COLUMNS)


def show(explanation: Explanation, verdict: str, standing: Standing, *, format: Format) -> None:
    """Print an explanation: why, the verdict, and how the membership database stands to it."""
    if format is Format.TABLE:
        _show_tree(explanation, verdict, standing)
        return
    sheet = Sheet(COLUMNS, format=Format.CSV) if format is Format.CSV else None
    about = {"audience": explanation.audience.key, "user": explanation.user, "as_of": iso(explanation.as_of)}
    for record in _records(explanation, verdict, standing):
        whole: Record = {**_EMPTY, **about, **record}
        if sheet is not None:
            sheet.add(whole)
        else:
            nested = {n: orjson.Fragment(v) if n in _AS_JSON and isinstance(v, str) else v for n, v in whole.items()}
            sys.stdout.write(json_line(nested))


def _records(explanation: Explanation, verdict: str, standing: Standing) -> Iterator[Record]:
    match explanation.root:
        case Clause() as clause:
            yield from _clause_records(clause)
        case Fact() as fact:
            yield {"node": "1", "kind": "value", "text": to_text(fact.scalar), "value": fact.value}
            yield from _event_records(fact, "1")
        case None:
            pass
    member = explanation.found.member
    yield {
        "kind": "verdict",
        "text": verdict,
        "holds": member is not None,
        "value": member and member.value,
        "identifiers": member and member.identifiers,
    }
    yield {
        "kind": "membership",
        "text": standing.sentence,
        "holds": standing.is_member,
        "value": standing.value,
        "at": standing.since,
        "identifiers": standing.identifiers,
        "run_id": standing.run_id,
    }


def _clause_records(clause: Clause) -> Iterator[Record]:
    values = [fact.value for fact in clause.facts]
    yield {
        "node": clause.node,
        "kind": "condition",
        "text": to_text(clause.condition),
        "holds": clause.holds,
        "value": values[0] if len(values) == 1 else f"[{','.join(values)}]" if values else None,
    }
    for fact in clause.facts:
        yield from _event_records(fact, clause.node)
    for operand in clause.operands:
        yield from _clause_records(operand)


def _event_records(fact: Fact, node: str) -> Iterator[Record]:
    if isinstance(fact.scalar, Reduction):
        for event in fact.events:
            name = fact.scalar.stream.event
            yield {"node": node, "kind": "event", "text": name, "at": event.at, "properties": event.properties}


def _show_tree(explanation: Explanation, verdict: str, standing: Standing) -> None:
    audience = explanation.audience
    kind = "computed trait" if audience.computation is Computation.TRAIT else "audience"
    as_of = instant_text(iso(explanation.as_of))
    heading = f"{audience.key} ({kind} {audience.name!r}), user {explanation.user}, as of {as_of}"
    out.print(Text(heading, style="bold"), end="\n\n")
    match explanation.root:
        case Clause() as clause:
            out.print_lines(_tree_lines(clause, explanation.user, width=out.line_width))
            out.print()
        case Fact() as fact:
            for line in _fact_lines(fact, explanation.user):
                out.print_lines(wrap(line, out.line_width, hang=2, is_json=True))
            out.print()
        case None:
            pass
    member = explanation.found.member
    out.print(Text(verdict, style="bold green" if member is not None else "bold yellow"))
    if member is not None and member.identifiers is not None:
        line = Text(f"identifiers: {harmless(member.identifiers)}")
        out.print_lines(wrap(line, out.line_width, hang=2, is_json=True))
    out.print(Text(standing.sentence))


def _tree_lines(clause: Clause, user: str, *, width: int, first: str = "", rest: str = "") -> Iterator[Text]:
    """Yield a condition, what is known of it, and its parts; `first` and `rest` are drawn to the left of its lines."""
    word = {And: "AND", Or: "OR", Not: "NOT"}.get(type(clause.condition))
    mark, color, holds = ("✓", "green", "holds") if clause.holds else ("✗", "red", "does not hold")
    title = Text.assemble(
        (f"{mark} {holds}", color), "  ", (word, "bold") if word else printable(to_text(clause.condition))
    )
    asked = asked_for(clause)
    facts = [Text("  ").append_text(line) for fact in clause.facts for line in _fact_lines(fact, user, asked=asked)]
    for line, is_json in [(title, False), *((fact, True) for fact in facts)]:
        for part in wrap(line, width - len(rest), hang=4, is_json=is_json):
            yield Text(first).append_text(part)
            first = rest
    for operand in clause.operands:
        corner, bar = ("└── ", "    ") if operand is clause.operands[-1] else ("├── ", "│   ")
        yield from _tree_lines(operand, user, width=width, first=rest + corner, rest=rest + bar)


def _fact_lines(fact: Fact, user: str, *, asked: str | None = None) -> Iterator[Text]:
    """Yield what is known of a value: itself, where it comes from, and its events."""
    value = f"is {harmless(fact.value)}"
    yield Text(printable(f"{to_text(fact.scalar)} {value}" if asked is None else f"{value}, asked for {asked}"))
    if fact.known is not None:
        kind = "a computed trait" if fact.known.computation is Computation.TRAIT else "an audience"
        command = shlex.join(["audience-sync", "explain", user, fact.known.key])
        yield Text(printable(f"it is {kind} of the file: `{command}` says why"), style="dim")
    if fact.events_in_all is None:
        return
    shown, in_all = len(fact.events), fact.events_in_all
    count = f"{in_all:,} event{'' if in_all == 1 else 's'}"
    yield Text(f"{count}, {shown:,} of them:" if shown < in_all else f"{count}:" if in_all else "no event")
    for event in fact.events:
        yield Text(f"  {instant_text(event.at)}  {harmless(event.properties)}")
