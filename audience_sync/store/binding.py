"""The identity and the environment of a database; once bound, neither can change."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from audience_sync.errors import BindingRefused
from audience_sync.store import settings_table


def bind_identity(connection: Connection, identity: str) -> None:
    """Keep the identity at the first sync, and refuse another one ever after.

    Raises:
        BindingRefused: the database has another identity.
    """
    # Of two that bind at one moment the second sees what the first has bound.
    settings_table.locked(connection, "generation")
    check_identity(connection, identity)
    settings_table.put(connection, "identity", identity)


def check_identity(connection: Connection, identity: str) -> None:
    """Refuse another identity than the one that is bound, if one is.

    Raises:
        BindingRefused: the database has another identity.
    """
    bound = settings_table.get(connection, "identity")
    if bound not in (None, identity):
        raise BindingRefused(
            f"this database uses the identity {bound!r}, but the configuration has {identity!r}",
            hint=f'set identity = "{bound}"; for a new identity, set a new [database] url',
        )


def bind_environment(connection: Connection, told: str | None, *, label: str, destination: str) -> str:
    """Keep the destination's environment at the first delivery, refuse another one ever after, and return it.

    `told` is the environment of the API key; a key that cannot read it has the file's `label`, or nothing to compare.

    Raises:
        BindingRefused: the database belongs to another environment.
    """
    settings_table.locked(connection, "generation")  # as for the identity
    bound = environment(connection)
    wanted = told or label or bound
    if bound and bound != wanted:
        raise BindingRefused(
            (
                f"this database belongs to the {destination} environment {bound!r}, but the API key belongs to"
                f" {wanted!r}"
            ),
            hint="use the API key of that environment, or set another [database] url for this one",
        )
    settings_table.put(connection, "environment", wanted)
    return wanted


def environment(connection: Connection) -> str:
    """Return the environment that is bound, or "" before the first delivery."""
    return settings_table.get(connection, "environment") or ""
