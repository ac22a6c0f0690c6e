"""The destination: the key and its environment, where events go, the types of the traits, and the two clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from audience_sync.checks.check_database import attempt
from audience_sync.checks.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Address, Settings, resolve_api_key
from audience_sync.core.model import Severity
from audience_sync.destinations.destination_protocol import Destination, Diagnosis
from audience_sync.destinations.http_connection import trusted_authorities
from audience_sync.errors import ConfigError, DestinationError
from audience_sync.store import binding
from audience_sync.store.database import Database

_NO_KEY: Final = SecretStr("none")


def look(
    settings: Settings, environ: Mapping[str, str], *, database: Database | None, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """Yield whether the destination is well; without a key only whether it can be reached."""
    key, destination = None, settings.destination
    try:
        key = resolve_api_key(settings.section, environ)
    except ConfigError as raised:
        yield error(destination.name, "api_key", raised)
    with closing(destination.connect(key or _NO_KEY, tls=trusted_authorities(), clock=now)) as client:
        yield from (_finding(destination, one) for one in client.probe(has_key=key is not None))
        yield from _unencrypted(destination)
        if key is None:
            return
        try:
            told = client.environment()
            yield _environment(destination, told, database)
        except EXPECTED as raised:
            yield error(destination.name, destination.api_url, raised)
            return
        types = {audience.key: audience.declared_type for audience in settings.audiences if audience.enabled}
        yield from (_finding(destination, one) for one in client.compare_types(types))


def _finding(destination: Destination, found: Diagnosis) -> Finding:
    check = "trait" if found.is_about_trait else destination.name
    code = DestinationError.exit_code if found.severity is Severity.ERROR else 0
    return Finding(check, found.subject, found.severity, found.sentence, found.remedy, code)


def _unencrypted(destination: Destination) -> Iterator[Finding]:
    for setting, url in destination.addresses.items():
        parts = urlsplit(url)
        if parts.scheme == "http" and not Address(parts.hostname or "", 0).is_loopback:
            yield warning(
                destination.name,
                url,
                "is not encrypted: anyone on the network path can read the API key",
                remedy=f"use https:// in {setting}",
            )


def _environment(destination: Destination, told: str | None, database: Database | None) -> Finding:
    """Return the environment of the key; refused if the database belongs to another environment."""
    check, url, label = destination.name, destination.api_url, destination.environment_label
    if database is not None:
        name = destination.display_name
        attempt(
            database,
            lambda connection: binding.bind_environment(connection, told, label=label, destination=name),
        )
    if told is not None:
        return ok(check, url, f"API key accepted; it belongs to the environment {told}")
    setting = f"{destination.name}.environment"
    counts = f"the label {label!r} from {setting} is used" if label else "environments are not compared"
    return ok(check, url, f"API key accepted, but it cannot read its environment: {counts}")
