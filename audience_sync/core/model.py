"""The words of the product as types: who is in, what changed, and how a run stands.

Identifiers and values are kept as canonical JSON text from the moment a row is read, so that comparing, storing and
hashing them is comparing, storing and hashing text.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class TraitType(StrEnum):
    """The types of traits that Schematic knows (its API, `POST /entity-trait-definitions`)."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    STRING = "string"
    DATE = "date"
    URL = "url"
    CURRENCY = "currency"


class Computation(StrEnum):
    """The result that is computed for a profile; all that distinguishes the two kinds is here."""

    AUDIENCE = "audience"  # whether it is a member
    TRAIT = "trait"  # a value

    @property
    def has_values(self) -> bool:
        """Return whether each profile has a value of its own."""
        return self is Computation.TRAIT

    @property
    def exit_value(self) -> str:
        """Return the JSON text that Schematic gets for a profile that is not a member, or has no value."""
        return "null" if self.has_values else "false"

    @property
    def fixed_type(self) -> TraitType | None:
        """Return the type of its trait in Schematic; None: that depends on the values."""
        return None if self.has_values else TraitType.BOOLEAN

    @property
    def id_prefix(self) -> str:
        """Return the beginning of the id that Segment gives it, `computation_id`."""
        return "trait" if self.has_values else "aud"

    @property
    def noun(self) -> str:
        """Return its name for people."""
        return "computed trait" if self.has_values else "audience"

    @property
    def one(self) -> str:
        """Return its name for people, with the article."""
        return f"a {self.noun}" if self.has_values else f"an {self.noun}"

    @property
    def members_noun(self) -> str:
        """Return the name of what it has as many of as profiles."""
        return "values" if self.has_values else "members"


class OnMissing(StrEnum):
    """The reaction to a computed trait that no longer has a value."""

    NULL = "null"  # null is sent
    KEEP = "keep"  # the last value stays


class ColumnType(StrEnum):
    """The type that the text in a column of a file is converted to."""

    NUMBER = "number"
    TIME = "time"


class DateOrder(StrEnum):
    """Which number of a date such as 11/05/2026 is the day."""

    DMY = "dmy"  # 11 May
    MDY = "mdy"  # November 5


class ChangeKind(StrEnum):
    """The kind of change of one profile in one audience."""

    ENTERED = "entered"
    EXITED = "exited"  # of a computed trait: it has no value any more
    UPDATED = "updated"  # identifiers or value differ, membership does not


class RunKind(StrEnum):
    """Why a run was made."""

    INITIAL = "initial"  # until one run of the audience has completed
    INCREMENTAL = "incremental"
    RESYNC = "resync"  # sends every current value again, and the exits still remembered
    RETRACT = "retract"  # takes every member out and retires the key


class RunState(StrEnum):
    """The state of a run; the last four are final."""

    HELD = "held"  # not evaluated: something it uses was not accepted; the next run of the audience takes its place

    RUNNING = "running"  # reading and comparing: nothing of an incremental run is applied yet
    BLOCKED = "blocked"  # a guard refused its plan; the plan is kept
    APPLYING = "applying"  # the plan is being committed; whoever finds it dead finishes it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"  # its plan was replaced by that of a newer run
    STALE = "stale"  # not evaluated: the newest data of its source was too old


class Member(NamedTuple):
    """One profile as a definition or the membership table has it."""

    profile_key: str
    identifiers: str | None = (
        None  # canonical JSON {"company": {...}, "user": {...}} without the identity; None: no other
    )
    value: str | None = None  # canonical JSON of a computed trait; None for an audience


class Change(NamedTuple):
    """One difference between the membership table and what the definition says now."""

    kind: ChangeKind
    profile_key: str
    identifiers: str | None  # of an exit: those the profile was last seen with
    value: str | None  # of an exit: the last one; as in Member, None for an audience, and never for a computed trait


MEMBER_VALUE: Final = "true"
"""The JSON text that is sent for a member of an audience; for a computed trait, its value is sent."""

EXIT_VALUES: Final = tuple(computation.exit_value for computation in Computation)
"""Every value that takes a profile out: JSON text, and no SQL NULL."""


def delivered_value(change: Change) -> str:
    """Return what Schematic is to be told of a change, as JSON text."""
    if change.kind is ChangeKind.EXITED:
        return (Computation.AUDIENCE if change.value is None else Computation.TRAIT).exit_value
    return MEMBER_VALUE if change.value is None else change.value


@dataclass(frozen=True)
class Counts:
    """The counts of a run: read = entered + updated + unchanged + rejected + duplicates."""

    read: int = 0
    entered: int = 0
    exited: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    duplicates: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.read + other.read,
            self.entered + other.entered,
            self.exited + other.exited,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.rejected + other.rejected,
            self.duplicates + other.duplicates,
        )

    @property
    def changed(self) -> int:
        """Return how many changes there are of any kind."""
        return self.entered + self.exited + self.updated


@dataclass(frozen=True)
class GuardLimits:
    """The limits beyond which a run is blocked, `[guard]` in the file; percentages are of the members before."""

    max_exit_percent: float
    max_entry_percent: float
    max_update_percent: float
    min_members: int
    min_initial_members: int


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def to_ms(moment: datetime) -> int:
    """Return an aware instant in whole milliseconds since 1970, as the database keeps it; a fraction is cut off."""
    return (moment - _EPOCH) // _MILLISECOND


def from_ms(milliseconds: float) -> datetime:
    """Return the instant of some milliseconds, in UTC."""
    return _EPOCH + milliseconds * _MILLISECOND


class Severity(StrEnum):
    """How bad a fact is that `check` reports."""

    OK = "ok"
    WARNING = "warning"  # a sync still works
    ERROR = "error"
