"""Check for files that other users can access: the configuration, the key, and the memberships in a SQLite database.

Files are not opened, so `sync` and `run` also use these checks before they do anything.
"""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audience_sync.checks.finding import Finding, warning
from audience_sync.config import Settings

_OTHERS: Final = stat.S_IRWXO
_NOT_THE_OWNER: Final = stat.S_IRWXG | stat.S_IRWXO
_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")  # SQLite keeps parts of a database in files next to it

_PASSWORD = re.compile(r"""://[^:/?#@\s"']*:(?!\$\{\w+\}@)[^@\s"']+@""")
_TOKEN = re.compile(
    r"""://[^\s"']*[?&]\w*(?:password|passwd|pwd|token|secret|api_?key|private_?key)\w*=(?!\$\{)[^\s"']""",
    re.IGNORECASE,
)


def look(settings: Settings) -> Iterator[Finding]:
    """Yield a warning for each existing file that too many users can access."""
    yield from _configuration(settings)
    destination = settings.destination
    yield from _secret_file(
        settings.section.api_key_file,
        check=destination.name,
        content="the API key",
        remedy=f"create a new key in {destination.display_name}",
    )
    for hook in settings.hooks:
        content = f"the secret of hook {hook.name}"
        yield from _secret_file(hook.secret_file, check="hook", content=content, remedy="use a new secret")
    url = settings.database.url.get_secret_value()
    if url.get_backend_name() == "sqlite":
        for ending in _SUFFIXES:
            yield from _memberships(Path(f"{url.database}{ending}"))


def holds_secret(text: str) -> bool:
    """Return whether a URL in a configuration contains a password or token instead of ``${NAME}``."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return any(_PASSWORD.search(line) or _TOKEN.search(line) for line in lines)


def _configuration(settings: Settings) -> Iterator[Finding]:
    """Yield warnings about the main file, the files that it includes, and the files of definitions."""
    for path in settings.files:
        yield from _configuration_file(
            path,
            "redirect the API key to another host" if path == settings.path else "change who is in an audience",
        )
    for folder in dict.fromkeys(path.parent for path in settings.included):
        if (mode := _mode(folder)) & (stat.S_IWGRP | stat.S_IWOTH):
            yield warning(
                "configuration",
                str(folder),
                f"is writable by other users (mode {mode:o}), who could add audiences",
                remedy=f"chmod go-w {_quoted(folder)}",
            )


def _configuration_file(path: Path, danger: str) -> Iterator[Finding]:
    mode = _mode(path)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield warning(
            "configuration",
            str(path),
            f"is writable by other users (mode {mode:o}), who could {danger}",
            remedy=f"chmod go-w {_quoted(path)}",
        )
    if mode & stat.S_IROTH and holds_secret(path.read_text(encoding="utf-8-sig")):
        yield warning(
            "configuration",
            str(path),
            f"is readable by every user (mode {mode:o}) and contains a password",
            remedy="replace the password with ${NAME} and keep it in the environment or a systemd credential, or"
            f" chmod 640 {_quoted(path)}",
        )


def _secret_file(path: Path | None, *, check: str, content: str, remedy: str) -> Iterator[Finding]:
    if path is not None and (mode := _mode(path)) & (_OTHERS | stat.S_IWGRP):  # the group may be that of the service
        yield warning(
            check,
            str(path),
            f"contains {content} and is accessible to other users (mode {mode:o})",
            remedy=f"chmod 600 {_quoted(path)}; if someone may have read it, {remedy}",
        )


def _memberships(path: Path) -> Iterator[Finding]:
    mode = _mode(path)
    if mode & _NOT_THE_OWNER:
        yield warning(
            "database",
            str(path),
            f"contains memberships and is accessible to other users (mode {mode:o})",
            remedy=f"chmod 600 {_quoted(path)}",
        )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _mode(path: Path) -> int:
    """Return the permissions of a file or of the target of a link; 0 if it does not exist."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
