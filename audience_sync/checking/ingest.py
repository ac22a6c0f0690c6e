"""The Tracking API: its write keys, the libraries it needs, and who can listen in on its senders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from audience_sync.checking.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Settings, resolve_write_keys
from audience_sync.ingest.opening import require_libraries

CHECK: Final = "ingest"


def look(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield how the API stands; nothing when the configuration has none."""
    address = settings.ingest.listen
    if address is None:
        return
    try:
        require_libraries()
        keys = resolve_write_keys(settings.ingest, environ)
    except EXPECTED as raised:
        yield error(CHECK, str(address), raised)
        return
    count = f"{len(keys)} write key{'' if len(keys) == 1 else 's'}"
    yield ok(CHECK, str(address), f"is where `run` takes events, from senders with {count}")
    if not address.is_loopback:
        yield warning(
            CHECK,
            str(address),
            "is reached from other machines, and write keys and events travel to it unencrypted",
            remedy="put a proxy that speaks TLS in front and listen on 127.0.0.1, or let only a network of your own in",
        )
