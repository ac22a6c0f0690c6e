"""The command manual, which shows the pages of the manual."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer
from rich.markdown import Markdown
from rich.theme import Theme

from audience_sync.cli.console import Format, FormatOption, print_facts, print_records, print_result
from audience_sync.cli.context import console, out
from audience_sync.cli.text_table import Record
from audience_sync.core.text import did_you_mean, shown
from audience_sync.manual.manual_pages import ManualPage, manual_pages

COLUMNS: Final = ("topic", "summary")
WIDEST: Final = 100
"""Columns of a page on a wide terminal; longer lines are hard to read."""


CODE: Final = Theme({"markdown.code": "cyan"})
"""Code in a sentence, without the black background that Rich gives it."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example: audience-sync manual query-language | grep -A 3 within")(manual)


def manual(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="The page to show (default: list all pages).")
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show a page of the manual, or list its pages.

    On a terminal, shows the page in $PAGER (default: less). In a pipe or a file, prints it as Markdown.
    """
    pages = manual_pages()
    if topic is None and format is not Format.TABLE:
        print_records(map(_record, pages.values()), COLUMNS, format=format)
    elif topic is None:
        print_facts((page.topic, page.summary) for page in pages.values())
        console.print("show a page: `audience-sync manual TOPIC`")
    elif page := _find(topic, pages):
        if format is Format.TABLE:
            _show(page)
        else:
            print_result({**_record(page), "text": page.text()}, format=format)
    else:
        near = did_you_mean(topic, pages) or "run `audience-sync manual` to list all pages"
        raise typer.BadParameter(f"the manual has no page {shown(topic)}; {near}", param_hint="TOPIC")


def _record(page: ManualPage) -> Record:
    return dict(zip(COLUMNS, (page.topic, page.summary), strict=True))


def _find(word: str, pages: dict[str, ManualPage]) -> ManualPage | None:
    """Return the page with this topic or title, in any case, or the only page whose topic begins with the word."""
    wanted = word.lower().removesuffix(".md").replace(" ", "-").replace("_", "-")
    if wanted in pages:
        return pages[wanted]
    beginning = [page for page in pages.values() if wanted and page.topic.startswith(wanted)]
    return beginning[0] if len(beginning) == 1 else None


def _show(page: ManualPage) -> None:
    """Print a page: formatted and in a pager on a terminal, otherwise unchanged."""
    if not out.is_seen:
        sys.stdout.write(page.text())
        return
    os.environ.setdefault("LESS", "-FR")  # show colors, and do not wait at the end of a page that fits
    with out.use_theme(CODE), out.pager(styles=True):
        formatted = Markdown(page.text(), hyperlinks=False, code_theme="ansi_dark")
        out.print(formatted, soft_wrap=False, width=min(out.terminal_width, WIDEST))
