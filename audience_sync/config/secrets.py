"""Secrets, and the references to them: ``${NAME}`` is an environment variable or, where that is unset, a credential.

A systemd credential is the file ``$CREDENTIALS_DIRECTORY/NAME`` (``LoadCredential=`` in the unit). The API key and the
write keys are looked up when they are needed, and not before. Values never appear in an error, only names do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, get_args, get_origin

from pydantic import BaseModel, SecretStr

from audience_sync.errors import ConfigError

if TYPE_CHECKING:
    from audience_sync.config.tables import HookTable, IngestTable, SchematicTable

SHORTEST_SECRET: Final = 16  # characters
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class HoldsReferences:
    """Marks the type of a setting in which ``${NAME}`` is a reference; it is just text in any other setting."""


HOLDS_REFERENCES: Final = HoldsReferences()


def names_in(value: object, kind: Any) -> Iterator[str]:
    """Yield the names that a value of the file refers to as a setting of some kind: a table, or a type of a setting.

    Names may come twice. Nothing is looked up, and values of the wrong type are passed over.
    """
    if HOLDS_REFERENCES in getattr(kind, "__metadata__", ()):
        yield from (name for text in _texts(value) for name in REFERENCE.findall(text))
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        table = value if isinstance(value, Mapping) else {}
        for name, field in kind.model_fields.items():
            of_field = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            yield from names_in(table.get(name, field.default if isinstance(field.default, str) else {}), of_field)
    else:
        of_dict, of_list = get_origin(kind) is dict, get_origin(kind) is list
        parts = value.values() if of_dict and isinstance(value, Mapping) else [value]
        for part in value if of_list and isinstance(value, list) else parts:
            for of_part in get_args(kind):
                yield from names_in(part, of_part)


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a value of TOML."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def look_up(name: str, environ: Mapping[str, str]) -> str | None:
    """Return what `name` refers to, without surrounding white space; None when it is unset, unreadable or empty."""
    value = environ.get(name, "").strip()
    if value:
        return value
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    try:
        return (Path(directory) / name).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def expand(text: str, environ: Mapping[str, str], *, encode: Callable[[re.Match[str], str], str]) -> str:
    """Replace every ``${NAME}`` in `text` by what it refers to.

    `encode` gets the match and the value, and returns how the value is written at that place.

    Raises:
        ValueError: a name is unset, or ``${`` is not followed by a name and `}`; says which, never a value.
    """
    if "${" in REFERENCE.sub("", text):
        raise ValueError("has a `${` without a name and a closing `}`")
    names = dict.fromkeys(REFERENCE.findall(text))
    values = {name: look_up(name, environ) for name in names}
    unset = [name for name, value in values.items() if value is None]
    if unset:
        raise ValueError(unset_sentence(unset))
    return REFERENCE.sub(lambda match: encode(match, values[match[1]] or ""), text)


def unset_sentence(names: Sequence[str]) -> str:
    """Return the sentence that says that `names` refer to nothing."""
    listed = " and ".join(f"`{name}`" for name in names)
    return f"{listed} {'is' if len(names) == 1 else 'are'} not set as an environment variable or a systemd credential"


def resolve_api_key(schematic: SchematicTable, environ: Mapping[str, str]) -> SecretStr:
    """Return the API key that the configuration refers to: that of `api_key_file` if there is one, else of `api_key`.

    Raises:
        ConfigError: it is unset, empty, unreadable, or cannot be a key; never says what was found.
    """
    if schematic.api_key_file is not None:
        origin = f"the file {schematic.api_key_file}"
        key = _in_file(
            schematic.api_key_file,
            unreadable="cannot read the Schematic API key",
            remedy="set schematic.api_key_file to a file that contains the key and is readable by this user",
        )
        if not key:
            raise ConfigError(
                f"the Schematic API key file {schematic.api_key_file} is empty", hint="write only the key to this file"
            )
    else:
        name = REFERENCE.sub(r"\1", schematic.api_key)
        origin = f"`{name}`"
        key = _named(name, environ, missing="the Schematic API key is missing", file="key")
    # It goes into a header: what cannot stand there would come back inside the client's error.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{origin} does not contain a valid Schematic API key",
            hint="it must contain only the key, with no quotes, name or second line",
        )
    return SecretStr(key)


def _in_file(path: Path, *, unreadable: str, remedy: str) -> str:
    """Return the text of a file without surrounding white space.

    Raises:
        ConfigError: it cannot be read; the message begins with `unreadable`.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise ConfigError(f"{unreadable} from {path}: {error.strerror}", hint=remedy) from None


def _named(name: str, environ: Mapping[str, str], *, missing: str, file: str) -> str:
    """Return what `name` refers to; `file` is what the hint calls the file of a credential.

    Raises:
        ConfigError: it refers to nothing; the message begins with `missing`.
    """
    found = look_up(name, environ)
    if found is None:
        raise ConfigError(
            f"{missing}: {unset_sentence([name])}",
            hint=f"export {name}, or set LoadCredential={name}:/path/of/the/{file} for the service",
        )
    return found


class WebhookSecrets(NamedTuple):
    """The secrets that an entry of `[[hooks]]` refers to."""

    first: SecretStr
    second: SecretStr | None
    headers: dict[str, SecretStr]


def resolve_hook(hook: HookTable, environ: Mapping[str, str]) -> WebhookSecrets:
    """Return the secrets that a hook refers to.

    Raises:
        ConfigError: one is unset, empty, unreadable, too short, or cannot be a header; never says what was found.
    """
    if hook.secret_file is not None:
        secret = _in_file(
            hook.secret_file,
            unreadable=f"hook {hook.name}: cannot read the secret",
            remedy="set `secret_file` to a file that contains the secret and is readable by this user",
        )
        found = [(f"the file {hook.secret_file}", secret)]
    else:
        names = [REFERENCE.sub(r"\1", one) for one in hook.secret or ()]
        found = [(f"`{name}`", _named(name, environ, missing=f"hook {hook.name}", file="secret")) for name in names]
    for origin, secret in found:
        if len(secret) < SHORTEST_SECRET:
            raise ConfigError(
                f"hook {hook.name}: the secret in {origin} has fewer than {SHORTEST_SECRET} characters",
                hint="generate one with `openssl rand -hex 32`, and give it to the receiver, too",
            )
    headers = {}
    for header, reference in hook.headers.items():
        name = REFERENCE.sub(r"\1", reference)
        value = _named(name, environ, missing=f"hook {hook.name}", file="secret")
        if not value.isascii() or not value.isprintable():
            raise ConfigError(
                f"hook {hook.name}: `{name}` is not valid as the header {header}",
                hint="it must be one line of printable ASCII characters",
            )
        headers[header] = SecretStr(value)
    secrets = [SecretStr(secret) for _, secret in found]
    return WebhookSecrets(secrets[0], secrets[1] if len(secrets) > 1 else None, headers)


def resolve_write_keys(ingest: IngestTable, environ: Mapping[str, str]) -> tuple[SecretStr, ...]:
    """Return the write keys that the configuration refers to.

    Raises:
        ConfigError: one is unset, empty, or cannot be a key; never says what was found.
    """
    return tuple(_resolve(REFERENCE.sub(r"\1", reference), environ) for reference in ingest.write_keys)


def _resolve(name: str, environ: Mapping[str, str]) -> SecretStr:
    key = _named(name, environ, missing="the write key is missing", file="key")
    # It is the user name of Basic authentication, which ends at the first colon.
    if not key.isascii() or not key.isprintable() or " " in key or ":" in key:
        raise ConfigError(
            f"`{name}` is not a valid write key",
            hint="it must contain only the key: letters and digits on one line, without quotes, spaces or colons",
        )
    return SecretStr(key)
