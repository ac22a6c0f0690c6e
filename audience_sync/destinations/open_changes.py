"""Open changes: values that wait in the outbox, as rows and column by column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class OpenChange(NamedTuple):
    """One undelivered value: a row of the outbox, with the key of its audience as the trait's name."""

    profile_key: str
    audience_id: int
    trait: str
    value: str  # JSON text
    generation: int
    run_id: int
    computation: str  # as in Computation
    kind: str  # of the change that was not sent yet; resent: nothing happened
    identifiers: str | None  # canonical JSON, as in Member


@dataclass(frozen=True)
class OpenChanges:
    """Many open changes in the order of their profiles, column by column: those of `OpenChange`."""

    columns: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, changes: Iterable[OpenChange]) -> Self:
        """Return changes as columns."""
        return cls(list(zip(*changes, strict=True)) or [()] * len(OpenChange._fields))

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[OpenChange]:
        return map(OpenChange._make, zip(*self.columns, strict=True))

    def part(self, start: int, end: int) -> OpenChanges:
        """Return some of them."""
        return OpenChanges([column[start:end] for column in self.columns])

    @property
    def profile_keys(self) -> Sequence[str]:
        """Return the profile key of each."""
        return self.columns[0]

    @property
    def said(self) -> Iterable[tuple[Any, ...]]:
        """Return the fields from `audience_id` to `kind` of each: its meaning, without the profile."""
        return zip(*self.columns[1:-1], strict=True)

    @property
    def identifiers(self) -> Sequence[str | None]:
        """Return the identifiers of each."""
        return self.columns[-1]

    def with_identifiers(self, identifiers: Sequence[str | None]) -> OpenChanges:
        """Return the same changes with other identifiers."""
        return OpenChanges([*self.columns[:-1], identifiers])
