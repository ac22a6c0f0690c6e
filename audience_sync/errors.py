"""Every error the product raises on purpose, as one tree; the docstring is the default message.

::

    AudienceSyncError                exit 1
      ConfigError                    exit 2   the configuration file, a flag, or a name that is not known
        UnknownName                  exit 2
        TriggerError                 exit 2   a trigger cannot be read
        QueryError                   exit 2   a query cannot be read, or asks for what the source has not
        MappingError                 exit 2   the fields of a mapping are wrong, or cannot be resolved for an event
        SchemaOutOfDate              exit 2   the membership database needs `init`, or a newer program
          SchemaOlder                exit 2   the membership database needs `migrate`
        BindingRefused               exit 2   this database belongs to another environment or identity
        DatabaseOlder                exit 2   the membership database comes from a backup
        DatabaseMoved                exit 2   the membership database was copied elsewhere and is closed
        CopyUnfinished               exit 2   the membership database is a copy that was interrupted
        CopyRefused                  exit 2   the database cannot take a copy of this one
      SourceError                    exit 1   a source cannot be read
      MarkUnusable                   exit 1   the high-water mark cannot be read or written: nothing is sent
      LeaseHeld                      exit 5   somebody else is doing this now
      LeaseLost                      exit 1   our right to write ended before the work did
      DestinationError               exit 1   what answers is not Schematic, or refuses everything
        KeyRefused                   exit 6   Schematic refused the API key
        DestinationAway              exit 1   Schematic cannot be reached now
      ApprovalRefused                exit 2   the plan cannot be approved any more

The CLI prints ``error:`` with the message and ``hint:`` with the hint, and exits with the exit code. Three codes belong
to no error: `DELIVERIES_OPEN` (3), `WAITS_FOR_A_PERSON` (4) and `INTERRUPTED` (130).
"""

from __future__ import annotations

from typing import ClassVar, Final

INTERRUPTED: Final = 130
"""The exit code of a command that Ctrl-C ended, as shells have it: 128 and the number of SIGINT."""

DELIVERIES_OPEN: Final = 3
"""The exit code of a command that went well, but after which deliveries are open or dead: `run_output.exit_code`."""

WAITS_FOR_A_PERSON: Final = 4
"""The exit code of a command after which a run is blocked by a guard or held, or its data is stale."""

STOPPED_ON_REQUEST: Final = "stopped on request"
"""The message of a sync that a signal ended, and the reason that its run keeps."""


class AudienceSyncError(Exception):
    """The command failed."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.hint = hint


class ConfigError(AudienceSyncError):
    """The configuration is not usable."""

    exit_code = 2


class UnknownName(ConfigError):
    """No such audience, profile or run."""


class TriggerError(ConfigError):
    """The trigger cannot be read."""

    def __init__(self, message: str, *, position: int) -> None:
        super().__init__(message)
        self.position = position  # of the character it is about, counted from 0


class QueryError(ConfigError):
    """The query cannot be read."""

    def __init__(self, message: str, *, position: int, used: str | None = None) -> None:
        super().__init__(message)
        self.position = position  # of the character it is about, counted from 0
        self.used = used  # the key of what has this query, if it is used by another one


class MappingError(ConfigError):
    """The fields of a mapping are wrong, or cannot be resolved for this event."""


class SchemaOutOfDate(ConfigError):
    """The membership database does not have the schema this program needs."""


class SchemaOlder(SchemaOutOfDate):
    """The membership database has the schema of an older program."""


class BindingRefused(ConfigError):
    """This membership database belongs to another Schematic environment or identity."""


class DatabaseOlder(ConfigError):
    """The membership database is older than what was sent from it."""


class DatabaseMoved(ConfigError):
    """The membership database was moved to another one."""


class CopyUnfinished(ConfigError):
    """The membership database is a copy that was interrupted."""


class CopyRefused(ConfigError):
    """The target cannot take a copy of this membership database."""


class ApprovalRefused(ConfigError):
    """This plan cannot be approved any more."""


class SourceError(AudienceSyncError):
    """The source could not be read."""


class MarkUnusable(AudienceSyncError):
    """The high-water mark next to the membership database cannot be read or written, so nothing is sent."""


class LeaseHeld(AudienceSyncError):
    """Another process is doing this right now."""

    exit_code = 5


class LeaseLost(AudienceSyncError):
    """The lease ended before the work did; whoever holds it now goes on."""


class DestinationError(AudienceSyncError):
    """The response is not from Schematic, or Schematic refuses everything; nothing was lost."""


class KeyRefused(DestinationError):
    """Schematic refused the API key; nothing was lost."""

    exit_code = 6


class DestinationAway(DestinationError):
    """Schematic cannot be reached now; nothing was lost."""
