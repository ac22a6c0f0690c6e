"""The Schematic API key: looked up when something is about to be sent, and not before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from audience_sync.config.secret_references import REFERENCE, look_up, unset_sentence
from audience_sync.config.tables import IngestTable, SchematicTable
from audience_sync.errors import ConfigError


def resolve_api_key(schematic: SchematicTable, environ: Mapping[str, str]) -> SecretStr:
    """Return the API key that the configuration refers to: that of `api_key_file` if there is one, else of `api_key`.

    Raises:
        ConfigError: it is unset, empty, unreadable, or cannot be a key; never says what was found.
    """
    if schematic.api_key_file is not None:
        origin = f"the file {schematic.api_key_file}"
        key = _in_file(schematic.api_key_file)
    else:
        name = REFERENCE.sub(r"\1", schematic.api_key)
        origin = f"`{name}`"
        key = _named(name, environ)
    # It goes into a header: what cannot stand there would come back inside the client's error.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{origin} does not hold a valid Schematic API key",
            hint="it must contain only the key: no quotes, no name, no second line",
        )
    return SecretStr(key)


def _in_file(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise ConfigError(
            f"the Schematic API key cannot be read from {path}: {error.strerror}",
            hint="schematic.api_key_file names a file that holds the key and that this user may read",
        ) from None
    if not key:
        raise ConfigError(
            f"the file {path} of the Schematic API key is empty", hint="write the key to this file, and nothing else"
        )
    return key


def _named(name: str, environ: Mapping[str, str]) -> str:
    key = look_up(name, environ)
    if key is None:
        raise ConfigError(
            f"the Schematic API key is missing: {unset_sentence([name])}",
            hint=f"export {name}, or give the service LoadCredential={name}:/path/of/the/key",
        )
    return key


# --- write keys -------------------------------------------------------------------------------------------------------
# The write keys of the Tracking API: looked up when it is about to be served, and not before.


def resolve_write_keys(ingest: IngestTable, environ: Mapping[str, str]) -> tuple[SecretStr, ...]:
    """Return the write keys that the configuration refers to.

    Raises:
        ConfigError: one is unset, empty, or cannot be a key; never says what was found.
    """
    return tuple(_resolve(REFERENCE.sub(r"\1", reference), environ) for reference in ingest.write_keys)


def _resolve(name: str, environ: Mapping[str, str]) -> SecretStr:
    key = look_up(name, environ)
    if key is None:
        raise ConfigError(
            f"the write key is missing: {unset_sentence([name])}",
            hint=f"export {name}, or give the service LoadCredential={name}:/path/of/the/key",
        )
    # It is the user name of Basic authentication, which ends at the first colon.
    if not key.isascii() or not key.isprintable() or " " in key or ":" in key:
        raise ConfigError(
            f"`{name}` is not a valid write key",
            hint="it must contain only the key: letters and digits, no quotes, no blanks, no colon, no second line",
        )
    return SecretStr(key)
