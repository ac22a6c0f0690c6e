"""The Tracking API: its write keys, the libraries it needs, and who can listen in on its senders."""

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
    yield ok(CHECK, str(address), f"is where `run` takes events, from senders with {counted(len(keys), 'write key')}")
    if traits := _settable(settings):
        yield warning(
            CHECK,
            str(address),
            f"takes identifies of any sender, and they can set {_listed(traits)} until the next change or resync",
            remedy="let a mapping send all traits only where"
            ' context.personas.computation_class in ["audience", "trait"], and another one the traits that it names;'
            " a sender with a write key is trusted all the same",
        )
    if not address.is_loopback:
        yield warning(
            CHECK,
            str(address),
            "is reached from other machines, and write keys and events travel to it unencrypted",
            remedy="put a proxy that speaks TLS in front and listen on 127.0.0.1, or let only a network of your own in",
        )


def _settable(settings: Settings) -> list[str]:
    """Return the audiences whose traits the mappings take from an identify that an application sends."""
    keys = [audience.key for audience in settings.audiences if audience.enabled]
    traits: Json = dict.fromkeys(keys, True)
    sent = settings.renderer("").user_traits(
        {"type": "identify", "userId": "sample", "timestamp": AT, "traits": traits}
    )
    return [key for key in keys if key in sent]


def _listed(traits: list[str]) -> str:
    return f"the trait {traits[0]}" if len(traits) == 1 else f"the traits of {len(traits)} audiences"
