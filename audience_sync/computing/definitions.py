"""Opening what an audience says: its own SQL as it is, its query compiled for its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from audience_sync.config import Audience, Settings
from audience_sync.source import Page, open_rows


@dataclass(frozen=True)
class Definition:
    """The result of a definition: its columns, its rows, once, and whether its values are JSON text already."""

    columns: tuple[str, ...]
    pages: Callable[[], Iterator[Page]]
    values_are_json: bool


@contextmanager
def open_definition(settings: Settings, audience: Audience, *, as_of: datetime) -> Iterator[Definition]:
    """Run the definition of an audience or computed trait in its source, as of an instant.

    The columns are those that `user_keys` and `company_keys` name and, of a computed trait, `value`.

    Raises:
        ConfigError: the definition can be seen to be wrong without running it.
        SourceError: the source cannot be read, also while `pages` is read.
    """
    source = settings.sources[audience.source]
    with open_rows(source, audience.sql or "", as_of=as_of) as rows:
        yield Definition(rows.columns, rows.pages, values_are_json=False)
