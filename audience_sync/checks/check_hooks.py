"""The hooks: their secrets, and whether each receiver accepts a signed request without messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Final

from audience_sync.checks.finding import Finding, error
from audience_sync.config import Settings, resolve_hook
from audience_sync.core.model import Severity
from audience_sync.destinations.http_connection import trusted_authorities
from audience_sync.errors import ConfigError, DestinationError

CHECK: Final = "hook"


def look(settings: Settings, environ: Mapping[str, str], *, now: Callable[[], datetime]) -> Iterator[Finding]:
    """Yield for each hook whether it is well; no message is sent. Only a required hook can fail the check."""
    for hook in settings.hooks:
        try:
            secrets = resolve_hook(hook, environ)
        except ConfigError as raised:
            yield error(CHECK, hook.name, raised)
            continue
        destination = settings.hook_route(hook, secrets).destination
        with closing(destination.connect(secrets.first, tls=trusted_authorities(), clock=now)) as client:
            for found in client.probe(has_key=True):
                is_error = found.severity is Severity.ERROR
                severity = Severity.WARNING if is_error and not hook.required else found.severity
                code = DestinationError.exit_code if severity is Severity.ERROR else 0
                subject = f"{hook.name} ({found.subject})"
                yield Finding(CHECK, subject, severity, found.sentence, found.remedy, code)
