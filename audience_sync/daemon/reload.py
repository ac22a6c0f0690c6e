"""A changed configuration under a running daemon: read whole, compared with the one in force, and named in the log.

What belongs to the process as a whole stays as it was until a restart: the membership database, the address and the
write keys for events, and the label of the Schematic environment. Another `identity` is refused, because every
audience's keys rest on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, SecretStr

from audience_sync.config import Settings, load, resolve_api_key
from audience_sync.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Reload:
    """A configuration to go on with, and how it differs from the one before."""

    settings: Settings
    key: SecretStr
    added: tuple[str, ...]  # audiences and computed traits, by key
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    other: tuple[str, ...]  # settings outside of them that hold from now on
    needs_restart: tuple[str, ...]  # settings that stay as they were


def read_again(old: Settings, key: SecretStr, environ: Mapping[str, str]) -> Reload:
    """Read the configuration file again and compare it with the settings and the API key in force.

    Raises:
        ConfigError: it cannot be used; the old one stays in force.
    """
    if not old.path.is_file():  # a pipe has been read to its end, and could be waited for for ever
        raise ConfigError(f"{old.path} is not a file", hint="put the file back; a pipe can be read only at a start")
    new = load(old.path, environ)
    if old.audiences and not new.audiences:
        raise ConfigError(
            f"{old.path} has no audiences and no computed traits any more",
            hint="restart the daemon if that is what you want",
        )
    new_key = resolve_api_key(new.schematic, environ)
    if new.identity != old.identity:
        raise ConfigError(
            f"identity: this database knows people by {old.identity!r}, the file says {new.identity!r}",
            hint=f'set identity = "{old.identity}", or give the new identity a new [database] url and restart',
        )
    settings = new.model_copy(
        update={
            "database": old.database,
            "ingest": old.ingest,
            "schematic": new.schematic.model_copy(update={"environment": old.schematic.environment}),
        }
    )
    before, after = ({one.key: one for one in of.audiences} for of in (old, new))
    other = _differing(old.model_copy(update={"audiences": ()}), settings.model_copy(update={"audiences": ()}))
    return Reload(
        settings=settings,
        key=new_key,
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(one for one in before.keys() & after.keys() if before[one] != after[one])),
        other=(*other, *(["the API key"] if new_key != key else [])),
        needs_restart=tuple(_differing(settings, new)),
    )


def _differing(one: BaseModel, other: BaseModel, path: str = "") -> Iterator[str]:
    """Yield the names of settings that differ, such as `delivery.max_backoff` and `sources.shop`; never a value."""
    for name in type(one).model_fields:
        yield from _differing_in(getattr(one, name), getattr(other, name), f"{path}{name}")


def _differing_in(one: object, other: object, name: str) -> Iterator[str]:
    if one == other:
        return
    if isinstance(one, BaseModel) and isinstance(other, BaseModel):
        yield from _differing(one, other, f"{name}.")
    elif isinstance(one, dict) and isinstance(other, dict):
        yield from (f"{name}.{key}" for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key))
    else:
        yield "mappings" if name == "mapping_tables" else name
