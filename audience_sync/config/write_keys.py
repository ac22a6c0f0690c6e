"""The write keys of the Tracking API: looked up when it is about to be served, and not before."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from audience_sync.config.document import Ingest
from audience_sync.config.references import REFERENCE, look_up, unset_sentence
from audience_sync.errors import ConfigError


def resolve_write_keys(ingest: Ingest, environ: Mapping[str, str]) -> tuple[SecretStr, ...]:
    """Return the write keys that the configuration refers to.

    Raises:
        ConfigError: one is unset, empty, or cannot be a key; never says what was found.
    """
    return tuple(_resolve(REFERENCE.sub(r"\1", reference), environ) for reference in ingest.write_keys)


def _resolve(name: str, environ: Mapping[str, str]) -> SecretStr:
    key = look_up(name, environ)
    if key is None:
        raise ConfigError(
            f"there is no write key: {unset_sentence([name])}",
            hint=f"export {name}, or give the service LoadCredential={name}:/path/of/the/key",
        )
    # It is the user name of Basic authentication, which ends at the first colon.
    if not key.isascii() or not key.isprintable() or " " in key or ":" in key:
        raise ConfigError(
            f"`{name}` is not a valid write key",
            hint="it must contain only the key: letters and digits, no quotes, no blanks, no colon, no second line",
        )
    return SecretStr(key)
