"""Check the Tracking API: write keys, required libraries, and encryption of connections from other machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from audience_sync.checks.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Settings, resolve_write_keys
from audience_sync.core.model import Json
from audience_sync.core.text import counted
from audience_sync.destinations.sample_changes import AT
from audience_sync.tracking_api.listener import require_libraries

CHECK: Final = "ingest"


def look(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the API; yield nothing if it is not configured."""
    address = settings.ingest.listen
    if address is None:
        return
    try:
        require_libraries()
        keys = resolve_write_keys(settings.ingest, environ)
    except EXPECTED as raised:
        yield error(CHECK, str(address), raised)
        return
    yield ok(CHECK, str(address), f"`run` accepts events here, authenticated with {counted(len(keys), 'write key')}")
    if traits := _settable(settings):
        yield warning(
            CHECK,
            str(address),
            (
                "accepts identify calls from any sender with a write key, and these can overwrite"
                f" {_listed(traits)} until the next change or resync"
            ),
            remedy='send all traits only in a mapping triggered by context.personas.computation_class in ["audience",'
            ' "trait"], and list the allowed traits in a second mapping; ignore this if you'
            " trust the senders",
        )
    if not address.is_loopback:
        yield warning(
            CHECK,
            str(address),
            "is reachable from other machines, and write keys and events are sent unencrypted",
            remedy="listen on 127.0.0.1 behind a TLS proxy, or restrict access to a private network",
        )


def _settable(settings: Settings) -> list[str]:
    """Return the audiences with traits that an application's identify could set through the mappings."""
    keys = [audience.key for audience in settings.audiences if audience.enabled]
    traits: Json = dict.fromkeys(keys, True)
    sent = settings.renderer("").user_traits(
        {"type": "identify", "userId": "sample", "timestamp": AT, "traits": traits}
    )
    return [key for key in keys if key in sent]


def _listed(traits: list[str]) -> str:
    return f"the trait {traits[0]}" if len(traits) == 1 else f"the traits of {len(traits)} audiences"
