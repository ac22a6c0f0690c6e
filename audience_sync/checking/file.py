"""The configuration file itself: who else can read or change it, and whether it is still the example."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audience_sync.checking.finding import Finding, ok, warning
from audience_sync.config import Settings

CHECK: Final = "configuration"

_PASSWORD = re.compile(r"""://[^:/?#@\s"']*:(?!\$\{\w+\}@)[^@\s"']+@""")
_TOKEN = re.compile(
    r"""://[^\s"']*[?&]\w*(?:password|passwd|pwd|token|secret|api_?key|private_?key)\w*=(?!\$\{)[^\s"']""",
    re.IGNORECASE,
)


def example() -> Path:
    """Return the example that `init` copies: inside the package where it was installed, else beside it."""
    package = Path(__file__).parent.parent
    inside = package / "config.example.toml"
    return inside if inside.is_file() else package.parent / inside.name


def look(settings: Settings) -> Iterator[Finding]:
    """Yield what there is to say about a file that could be read."""
    path = settings.path
    text = path.read_text(encoding="utf-8-sig")
    mode = stat.S_IMODE(path.stat().st_mode)
    yield ok(
        CHECK, str(path), f"is usable: {_count(settings.audiences, 'audience')}, {_count(settings.sources, 'source')}"
    )
    if text == example().read_text(encoding="utf-8"):
        yield warning(
            CHECK,
            str(path),
            "is still the example, whose shop exists nowhere",
            remedy="set the url of [sources.shop] to your own database, and name and sql of [[audiences]] to who is in",
        )
    elif not settings.audiences:
        yield warning(CHECK, str(path), "has no [[audiences]]: nothing is synced", remedy=f"see {example()}")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield warning(
            CHECK,
            str(path),
            f"can be changed by others (mode {mode:o}), who could have the API key sent elsewhere",
            remedy=f"chmod go-w {path}",
        )
    if mode & stat.S_IROTH and holds_secret(text):
        yield warning(
            CHECK,
            str(path),
            f"can be read by everybody (mode {mode:o}) and holds a password",
            remedy=f"write ${{NAME}} in its place and keep it in the environment or a credential, or chmod 600 {path}",
        )


def holds_secret(text: str) -> bool:
    """Return whether a URL in a configuration has a password or a token that is no ``${NAME}``."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return any(_PASSWORD.search(line) or _TOKEN.search(line) for line in lines)


def _count(things: object, word: str) -> str:
    number = len(things)  # type: ignore[arg-type]
    return f"{number} {word}{'' if number == 1 else 's'}"
