"""The questions of a run to the engine that compares: `duckdb_diff` is in this process, another can be in a warehouse.

`tests/integration/test_diff.py` holds what each of them must do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from audience_sync.core.keys import KeyRules
from audience_sync.core.model import Change, Counts
from audience_sync.core.rows import Wrapping
from audience_sync.store.memberships import Digest


class DiffEngine(Protocol):
    """Compares the lines (`core.rows`) of a definition with those of an audience's members."""

    wrapping: Wrapping | None  # of its lines; set before the first is added

    def add(self, lines: bytes, rows: int) -> None:
        """Add UTF-8 lines with their line ends, from `rows` rows."""

    def take_out(self, rules: KeyRules) -> Iterator[Sequence[tuple[str, str | None]]]:
        """Take out the lines whose key or bare identifier may be none by the rules; yield these two, many at a time.

        Nothing may be added until all are taken out.
        """

    def leave_out_duplicates(self, left_out: Callable[[str], None]) -> None:
        """Keep one line of each profile; the others are passed on."""

    def version(self) -> str:
        """Return the version of digests: everything they depend on except the lines."""

    def digest(self) -> Digest:
        """Return the digest of the lines: equal digests mean equal sets of lines."""

    def compare(
        self, members: Iterable[bytes], *, known: Digest | None, keep_missing: bool, left_out: Callable[[str], None]
    ) -> Counts:
        """Compare with the lines of the members and return the number of changes.

        Of several lines of a profile all but one are left out, if that was not done before. `known` is the digest of
        the members if there is one. With `keep_missing` nobody exits, and the digest is of the lines and those who
        stay.
        """

    def changes(self) -> Iterator[Sequence[Change]]:
        """Yield the changes that `compare` found, in pages, by profile key."""

    def everybody(self) -> Iterator[Sequence[str]]:
        """Yield the lines in pages, by profile key; a single identifier is bare in them."""

    def values(self) -> Iterator[Sequence[str]]:
        """Yield the values of computed traits in pages, in a fixed order unrelated to the values."""

    def lines_of(self, profile_key: str) -> list[str]:
        """Return the lines of one profile."""
