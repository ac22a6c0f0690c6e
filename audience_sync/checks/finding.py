"""The result of one check: a state, a sentence, and a remedy if there is a problem."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from audience_sync.core.model import Severity
from audience_sync.database_error import first_line
from audience_sync.errors import AudienceSyncError, ConfigError, KeyRefused

EXPECTED: Final = (AudienceSyncError, sa.exc.SQLAlchemyError)
"""Errors that a look at something broken may raise."""


@dataclass(frozen=True)
class Finding:
    """The result of checking one thing: its kind, its name, its state, and the remedy."""

    # configuration, database, source, audience, mapping, identifiers, memberships, ingest, schematic or trait
    check: str
    subject: str
    state: Severity
    message: str
    remedy: str | None = None
    exit_code: int = 0  # exit code if this is the only error


def ok(check: str, subject: str, message: str) -> Finding:
    """Return a finding that something is correct."""
    return Finding(check, subject, Severity.OK, message)


def warning(check: str, subject: str, message: str, *, remedy: str | None = None) -> Finding:
    """Return a finding that needs attention but does not stop a sync."""
    return Finding(check, subject, Severity.WARNING, message, remedy)


def error(check: str, subject: str, raised: Exception) -> Finding:
    """Return a finding that something does not work, with the message of the exception; see `EXPECTED`."""
    if isinstance(raised, AudienceSyncError):
        return Finding(check, subject, Severity.ERROR, str(raised), raised.hint, raised.exit_code)
    return Finding(check, subject, Severity.ERROR, first_line(raised), None, AudienceSyncError.exit_code)


def exit_code(findings: Collection[Finding]) -> int:
    """Return the exit code: 0 no errors, 2 the configuration is invalid, 6 the API key is refused, else 1."""
    codes = {finding.exit_code for finding in findings if finding.state is Severity.ERROR}
    for code in (ConfigError.exit_code, KeyRefused.exit_code):
        if code in codes:
            return code
    return AudienceSyncError.exit_code if codes else 0
