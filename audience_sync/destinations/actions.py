"""Actions: what a destination can make of an event, the fields it needs for that, and their presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, TypeAlias

from audience_sync.core.model import Json
from audience_sync.segment.fql.trigger_tree import Expression

Body: TypeAlias = dict[str, Json]


class FieldKind(StrEnum):
    """The type of a field."""

    OBJECT = "object"
    STRING = "string"
    DATETIME = "datetime"


@dataclass(frozen=True)
class Field:
    """One value that an action takes from a mapping."""

    name: str
    kind: FieldKind
    required: bool
    label: str
    description: str


class RejectionReason(StrEnum):
    """Why no body is made of an event."""

    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_USER_KEYS = "empty_user_keys"
    UNUSABLE_KEY = "unusable_key"  # the value of a key is an object, a list, or not a finite number
    BAD_TIMESTAMP = "bad_timestamp"
    UNUSABLE_EVENT_NAME = "unusable_event_name"
    UNRESOLVABLE = "unresolvable"  # a directive of the mapping cannot be followed for this event
    UNENCODABLE = "unencodable"  # it nests too deep for JSON, or has text that is not valid Unicode


class BodyRejection(NamedTuple):
    """An event that an action cannot make a body of; the field is "" when it is not known."""

    reason: RejectionReason
    field: str
    sentence: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Action:
    """One kind of body that a destination can make of an event."""

    name: str  # in the configuration
    fields: tuple[Field, ...]
    make_body: Callable[[Mapping[str, Json]], Body | BodyRejection]
    """Return the body for the resolved fields of a mapping, or why there is none. It may share objects with them."""
    preset_name: str  # of the mapping that serves when the configuration has none
    preset_trigger: Expression
    preset_fields: Mapping[str, Json]
    trait_fields: frozenset[str] = frozenset()
    """The fields that can take the traits as a whole. Only then can changes of one profile share an event."""

    @cached_property
    def required(self) -> frozenset[str]:
        """Return the names of the fields that the action needs."""
        return frozenset(field.name for field in self.fields if field.required)

    def __str__(self) -> str:
        """Return the name in the configuration."""
        return self.name
