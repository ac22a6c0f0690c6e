"""Read the pages of the manual.

A page is a Markdown file in this folder. Its topic is the name of the file without `.md`. `README.md` has a line for
each page, `- [Title](topic.md): summary`, in reading order. It is the only list of pages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).parent
_ENTRY: Final = re.compile(r"^- \[([^]]+)\]\(([a-z-]+)\.md\): (.+)$", re.MULTILINE)


class ManualPage(NamedTuple):
    """A page in the list of pages."""

    title: str
    topic: str  # the word that names it: `audiences-in-sql`
    summary: str  # what it is about, in one line

    def text(self) -> str:
        """Return the page as Markdown."""
        return (FOLDER / f"{self.topic}.md").read_text(encoding="utf-8")


def manual_pages() -> dict[str, ManualPage]:
    """Return all pages by topic, in reading order."""
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    pages = (ManualPage(*found.groups()) for found in _ENTRY.finditer(listed))
    return {page.topic: page for page in pages}
