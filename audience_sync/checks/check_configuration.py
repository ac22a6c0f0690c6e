"""Check the configuration file itself, including whether it is still the example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from audience_sync.checks.finding import EXPECTED, Finding, error, ok, warning
from audience_sync.config import Settings
from audience_sync.config.example_file import example
from audience_sync.config_path import fitting_files
from audience_sync.core.text import counted
from audience_sync.folders import TEMPORARY_FOLDER, require_usable_temporary_folder

CHECK: Final = "configuration"


def look(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield findings about a valid file."""
    path = settings.path
    text = path.read_text(encoding="utf-8-sig")
    included = f", {counted(len(settings.included), 'included file')}" if settings.included else ""
    yield ok(CHECK, str(path), f"is valid: {settings.counts()}, {counted(len(settings.sources), 'source')}{included}")
    for pattern in settings.include:
        if not fitting_files(path, pattern):
            yield warning(
                CHECK,
                str(path.parent / pattern),
                "matches no file, so it adds nothing to the configuration",
                remedy=f"correct `include` in {path}, or add a file there",
            )
    if text == example().read_text(encoding="utf-8"):
        yield warning(
            CHECK,
            str(path),
            "is still the example configuration; its database does not exist",
            remedy=(
                "set the url of [sources.shop] to your database, and the name and sql of [[audiences]] to your"
                " first audience"
            ),
        )
    elif not settings.audiences:
        yield warning(CHECK, str(path), "has no [[audiences]], so nothing is synced", remedy=f"see {example()}")
    try:
        require_usable_temporary_folder(environ)
    except EXPECTED as raised:
        yield error(CHECK, TEMPORARY_FOLDER, raised)
