"""The configuration file itself: what is in it, and whether it is still the example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from audience_sync.checks.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Settings
from audience_sync.folders import TEMPORARY_FOLDER, require_usable_temporary_folder

CHECK: Final = "configuration"


def example() -> Path:
    """Return the example that `init` copies: inside the package where it was installed, else next to it."""
    package = Path(__file__).parent.parent
    inside = package / "config.example.toml"
    return inside if inside.is_file() else package.parent / inside.name


def look(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what there is to say about a file that could be read."""
    path = settings.path
    text = path.read_text(encoding="utf-8-sig")
    yield ok(
        CHECK, str(path), f"is usable: {_count(settings.audiences, 'audience')}, {_count(settings.sources, 'source')}"
    )
    if text == example().read_text(encoding="utf-8"):
        yield warning(
            CHECK,
            str(path),
            "is still the example; its shop does not exist",
            remedy="set the url of [sources.shop] to your own database, and name and sql of [[audiences]] to who is in",
        )
    elif not settings.audiences:
        yield warning(CHECK, str(path), "has no [[audiences]]: nothing is synced", remedy=f"see {example()}")
    try:
        require_usable_temporary_folder(environ)
    except EXPECTED as raised:
        yield error(CHECK, TEMPORARY_FOLDER, raised)


def _count(things: object, word: str) -> str:
    number = len(things)  # type: ignore[arg-type]
    return f"{number} {word}{'' if number == 1 else 's'}"
