"""A world: the profiles and events of one made-up source, and how its tables look. Users are texts everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.reference.language import Query

Value = Any
"""None, a truth, a number, a text, a list or object of these, or an aware datetime (of a column of a time type)."""


@dataclass(frozen=True)
class Event:
    """What a user did; `at` is None where the timestamp is missing or cannot be read."""

    user: str | None
    name: str | None
    at: datetime | None
    properties: Mapping[str, Value] | None = None
    context: Mapping[str, Value] | None = None
    source: str | None = None
    spelled: str | None = None  # the timestamp, where the column holds text


@dataclass(frozen=True)
class Profile:
    """A row of the table of users."""

    user: str
    traits: Mapping[str, Value] | None = None


@dataclass(frozen=True)
class World:
    """Everything a source knows; `profiles` is None where it has no table of users."""

    events: tuple[Event, ...]
    profiles: tuple[Profile, ...] | None = None


@dataclass(frozen=True)
class Definition:
    """An audience (its query is a condition) or a computed trait (its query is a value), with its key as its name."""

    name: str
    query: Query
    timezone: str = "UTC"
    spelling: int = 0  # which of the equivalent ways to write the query down


@dataclass(frozen=True)
class Shape:
    """How the tables hold a world; all of it must make no difference to any query."""

    plain: bool = False  # properties and traits are columns of their own, instead of members of a JSON column
    integer_users: bool = False
    text_timestamps: bool = False
    escaped_json: bool = False  # é as \u00e9
    binary_json: bool = True  # jsonb instead of json, where there are both


@dataclass(frozen=True)
class Case:
    """One world and the definitions to be evaluated in it, as of one instant."""

    world: World
    definitions: tuple[Definition, ...]
    as_of: datetime
    shape: Shape = Shape()
