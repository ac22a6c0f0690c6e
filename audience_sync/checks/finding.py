"""What `check` says about one thing: whether it is well, in a sentence, and what to do if not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from audience_sync.database_error import first_line
from audience_sync.errors import AudienceSyncError, ConfigError, KeyRefused

EXPECTED: Final = (AudienceSyncError, sa.exc.SQLAlchemyError)
"""What looking at something may raise when it is not well."""


class State(StrEnum):
    """How something stands."""

    OK = "ok"
    WARNING = "warning"  # a sync works all the same
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what kind of thing, which one, how it stands, and what to do about it."""

    # configuration, database, source, audience, mapping, identifiers, memberships, ingest, schematic or trait
    check: str
    subject: str
    state: State
    message: str
    remedy: str | None = None
    exit_code: int = 0  # the one that an error alone would leave with


def ok(check: str, subject: str, message: str) -> Finding:
    """Return that something is well."""
    return Finding(check, subject, State.OK, message)


def warning(check: str, subject: str, message: str, *, remedy: str | None = None) -> Finding:
    """Return that something should be looked at by a person."""
    return Finding(check, subject, State.WARNING, message, remedy)


def error(check: str, subject: str, raised: Exception) -> Finding:
    """Return that something does not work, in the words of what was raised; see `EXPECTED`."""
    if isinstance(raised, AudienceSyncError):
        return Finding(check, subject, State.ERROR, str(raised), raised.hint, raised.exit_code)
    return Finding(check, subject, State.ERROR, first_line(raised), None, AudienceSyncError.exit_code)


def exit_code(findings: Collection[Finding]) -> int:
    """Return how the command ends: 0 all is well, 2 the configuration is wrong, 6 the key is refused, else 1."""
    codes = {finding.exit_code for finding in findings if finding.state is State.ERROR}
    for code in (ConfigError.exit_code, KeyRefused.exit_code):
        if code in codes:
            return code
    return AudienceSyncError.exit_code if codes else 0
