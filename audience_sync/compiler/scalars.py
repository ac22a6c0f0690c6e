"""Values that are the same in every database: what is known to be a text, a number, a truth or a moment."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from audience_sync.compiler.dialect import Dialect, Expression, Truth, fixed


@dataclass(frozen=True)
class TextValue:
    """An expression that is a text."""

    expression: Expression
    dialect: Dialect

    def present(self) -> Truth:
        """Return whether it is not NULL."""
        return self.expression.is_not(None)

    def text(self) -> Expression:
        """Return it as it is."""
        return self.expression

    def number(self) -> Expression:
        """Return the number it is written as."""
        return self.dialect.number_of_text(self.expression)

    def moment(self) -> Expression:
        """Return the moment it is written as."""
        return self.dialect.moment_of_text(self.expression)

    def json(self) -> Expression:
        """Return it as a JSON string."""
        return self.dialect.json_of(self.expression)


@dataclass(frozen=True)
class NumberValue:
    """An expression that is a number."""

    expression: Expression
    dialect: Dialect

    def present(self) -> Truth:
        """Return whether it is not NULL."""
        return self.expression.is_not(None)

    def text(self) -> Expression:
        """Return it as the database writes it."""
        return sa.cast(self.expression, sa.Text)

    def number(self) -> Expression:
        """Return it as a double."""
        return sa.cast(self.expression, sa.Double)

    def moment(self) -> Expression:
        """Return NULL: a number is not a time."""
        return self.dialect.moment_of_text(sa.cast(sa.null(), sa.Text))

    def json(self) -> Expression:
        """Return it as a JSON number."""
        return self.dialect.json_of(self.expression)


@dataclass(frozen=True)
class TruthValue:
    """An expression that is true, false or NULL."""

    expression: Truth
    dialect: Dialect

    def present(self) -> Truth:
        """Return whether it is not NULL."""
        return self.expression.is_not(None)

    def text(self) -> Expression:
        """Return `true` or `false`."""
        return sa.case((self.expression, fixed("true")), (sa.not_(self.expression), fixed("false")))

    def number(self) -> Expression:
        """Return NULL: a boolean is not a number."""
        return sa.cast(sa.null(), sa.Double)

    def moment(self) -> Expression:
        """Return NULL: a boolean is not a time."""
        return self.dialect.moment_of_text(sa.cast(sa.null(), sa.Text))

    def json(self) -> Expression:
        """Return it as a JSON boolean."""
        return self.dialect.document(self.text()).json()


@dataclass(frozen=True)
class MomentValue:
    """A column of a time type: `instant` compares, `written` is its ISO 8601 text."""

    instant: Expression
    written: Expression
    dialect: Dialect

    def present(self) -> Truth:
        """Return whether it is not NULL."""
        return self.instant.is_not(None)

    def text(self) -> Expression:
        """Return its ISO 8601 text."""
        return self.written

    def number(self) -> Expression:
        """Return NULL: a time is not a number."""
        return sa.cast(sa.null(), sa.Double)

    def moment(self) -> Expression:
        """Return it as it is."""
        return self.instant

    def json(self) -> Expression:
        """Return its text as a JSON string."""
        return self.dialect.json_of(self.written)
