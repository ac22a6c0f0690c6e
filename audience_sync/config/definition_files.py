"""Put the texts of `sql_file` and `query_file` in their place, as `sql` and `query`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from audience_sync.config.cross_checks import Raw, entries_of
from audience_sync.config.problems import Location, Problem
from audience_sync.text_files import read_text_file

MOST_BYTES: Final = 1 << 20
_FILES: Final = {"sql_file": "sql", "query_file": "query"}  # settings, and what their files have


def with_texts(raw: dict[str, Any], folder: Callable[[Location], Path]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the document with the texts of all definitions, and what is wrong with where they are.

    `sql_file` and `query_file` become absolute paths; `folder` returns where those of a table start.
    """
    problems: list[Problem] = []
    lists: dict[str, list[Any]] = {}
    for location, entry in entries_of(raw).items():
        name, index = location
        found = list(_problems(entry, location))
        problems += found
        for setting, text_setting in _FILES.items() if not found else ():
            value = entry.get(setting)
            if not isinstance(value, str) or not value.strip() or "\0" in value:
                continue  # absent, or the type of the setting has a sentence for it
            path = folder(location) / value
            try:
                text = _text(path)
            except ValueError as error:
                problems.append(Problem((*location, setting), str(error)))
                continue
            tables = lists.setdefault(str(name), list(raw[str(name)]))
            tables[int(index)] = {**entry, setting: str(path), text_setting: text}
    return {**raw, **lists}, problems


def _problems(entry: Raw, location: Location) -> Iterator[Problem]:
    """Check that an audience says who is in, and says it once."""
    given = [one for one in ("sql", "query", "sql_file", "query_file") if one in entry]
    if not given:
        yield Problem((*location, "sql"), "missing")
    elif len(given) > 1:
        yield Problem((*location, given[1]), f"cannot be combined with `{given[0]}`; remove one of them")


def _text(path: Path) -> str:
    text = read_text_file(path, most_bytes=MOST_BYTES)
    if not text.strip():
        raise ValueError(f"{path} is empty")
    if "\0" in text:  # PostgreSQL cannot store it
        raise ValueError(f"{path} contains a NUL character")
    return text


def query_setting(entry: Mapping[str, Any]) -> str:
    """Return the setting that has the query of an audience or computed trait: `query` or `query_file`."""
    return "query_file" if "query_file" in entry else "query"
