"""Before the first event: whose key this is, and that Schematic knows the type of every trait."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from audience_sync.config import Audience, Settings
from audience_sync.core.model import Computation, TraitType
from audience_sync.destinations.http_connection import trusted_authorities
from audience_sync.destinations.schematic.client import Schematic
from audience_sync.store import audiences, binding
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.workspace import Workspace


@dataclass
class Acquaintance:
    """What a process has learnt of Schematic, from one delivery to the next: events may be delivered every second."""

    tls: ssl.SSLContext = field(default_factory=trusted_authorities)
    environment: str | None = None  # of the key, once it was asked for
    refused: set[int] = field(default_factory=set)  # audiences whose trait could not be declared, or need not be


def bind(workspace: Workspace, settings: Settings, schematic: Schematic) -> str:
    """Return the environment this database belongs to, bound at the first delivery.

    Raises:
        BindingRefused: the key belongs to another environment, or the configuration names another identity.
        KeyRefused: the key is not accepted.
        DestinationAway: Schematic does not answer now.
        DestinationError: what answers is not Schematic.
    """
    told = schematic.environment()
    with workspace.database.write() as connection:
        binding.bind_identity(connection, settings.identity)
        return binding.bind_environment(connection, told, label=settings.schematic.environment)


def declare_traits(
    workspace: Workspace,
    settings: Settings,
    schematic: Schematic,
    *,
    stop: threading.Event,
    refused: set[int],
    warn: Callable[[str], None],
) -> None:
    """Declare the types of traits that are to be sent for the first time, if a mapping sends them under their names.

    An audience is boolean; a computed trait has the type of the file, and without one Schematic goes by its first
    value. A refusal is a warning, told once and remembered in `refused`: the trait is sent all the same.
    """
    with workspace.database.read() as connection:
        undeclared = audiences.undeclared(connection)
        environment = binding.environment(connection)
    configured = {one.key: one for one in settings.audiences} if undeclared else {}
    for audience in undeclared:
        if stop.is_set() or audience.id in refused:
            continue
        known = configured.get(audience.key)
        if known is not None and not settings.coverage(known, environment=environment).sets_trait:
            refused.add(audience.id)  # nothing sends the trait under this name, until the program is started anew
            continue
        trait_type = _type_of(audience, known)
        if trait_type is None:
            refused.add(audience.id)
            continue
        problem = schematic.declare(audience.key, trait_type, display_name=audience.name)
        if problem is None:
            with workspace.database.write() as connection:
                audiences.set_declared(connection, audience.id, workspace.seams.now_ms())
        else:
            refused.add(audience.id)
            warn(f"trait {audience.key} could not be declared {trait_type}, it is sent all the same: {problem}")


def _type_of(row: AudienceRow, known: Audience | None) -> TraitType | None:
    """Return the type to declare, or None where nobody knows it: of a computed trait that is not in the file, too."""
    if row.computation is Computation.AUDIENCE:
        return TraitType.BOOLEAN
    return known.declared_type if known is not None else None
