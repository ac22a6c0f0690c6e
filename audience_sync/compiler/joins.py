"""Joins to the rows of a user, made when a condition needs them: profiles, audiences and computed traits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from sqlalchemy.sql.expression import FromClause

from audience_sync.compiler.dialect import Dialect, Expression, Truth, Value
from audience_sync.query.syntax_tree import Path, Trait

PROFILES = ""
"""The name under which profiles are joined; no key is empty."""


class Traits(Protocol):
    """An object that knows the traits of users: `World`."""

    @property
    def dialect(self) -> Dialect:
        """Return the database they are in."""

    @property
    def look_up(self) -> Callable[[Trait, Path, Joins], Value]:
        """Return what gives a trait, and joins what that takes."""


class Joins:
    """Rows of a user, and everything that was joined to them."""

    def __init__(
        self, user: Expression, kind: str, traits: Traits, *, present: Mapping[str, FromClause] | None = None
    ) -> None:
        self.user = user
        self.present = dict(present or {})
        self._kind = kind
        self._traits = traits
        self._joined: list[tuple[FromClause, Truth]] = []

    def value(self, trait: Trait, path: Path) -> Value:
        """Return a trait of the user."""
        return self._traits.look_up(trait, path, self)

    def join(self, name: str, make: Callable[[], FromClause], user: str, kind: str) -> FromClause:
        """Return the rows under a name, made and joined the first time; `user` is their column, of type `kind`."""
        if name not in self.present:
            rows = self.present[name] = make()
            self._joined.append((rows, self.is_user(rows.c[user], kind)))
        return self.present[name]

    def is_user(self, other: Expression, kind: str) -> Truth:
        """Return whether another column names the same user; columns that do not compare are compared as keys are."""
        dialect = self._traits.dialect
        if kind and dialect.family(kind) == dialect.family(self._kind):
            return other == self.user
        return dialect.key(other, kind) == dialect.key(self.user, self._kind)

    def onto(self, rows: FromClause) -> FromClause:
        """Return rows with everything joined that was asked for."""
        for joined, is_theirs in self._joined:
            rows = rows.outerjoin(joined, is_theirs)
        return rows
