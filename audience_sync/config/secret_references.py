"""References to secrets: ``${NAME}`` is an environment variable or, where that is unset, a systemd credential.

A systemd credential is the file ``$CREDENTIALS_DIRECTORY/NAME`` (``LoadCredential=`` in the unit). Values never appear
in an error, only names do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


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
        ValueError: a name is unset, or ``${`` begins something that is no reference; says which, never a value.
    """
    if "${" in REFERENCE.sub("", text):
        raise ValueError("has a `${` that is not followed by a name and `}`")
    names = dict.fromkeys(REFERENCE.findall(text))
    values = {name: look_up(name, environ) for name in names}
    unset = [name for name, value in values.items() if value is None]
    if unset:
        raise ValueError(unset_sentence(unset))
    return REFERENCE.sub(lambda match: encode(match, values[match[1]] or ""), text)


def unset_sentence(names: Sequence[str]) -> str:
    """Return the sentence that says that `names` refer to nothing."""
    listed = " and ".join(f"`{name}`" for name in names)
    return f"{listed} {'is' if len(names) == 1 else 'are'} not set in the environment or as a systemd credential"
