"""`audience-sync manual` lists and shows the pages of the manual, in a pipe and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from audience_sync.manual.manual_pages import manual_pages
from tests.commands import call


def on_terminal(*words: str, columns: int) -> str:
    """Return what the command prints on a terminal, with a pager that changes nothing."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PAGER": "cat", "TERM": "xterm-256color", "COLUMNS": str(columns)}
    process = subprocess.Popen(
        [sys.executable, "-m", "audience_sync", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    with open(ours, "rb", closefd=True) as screen:  # noqa: PTH123 - a descriptor
        parts = []
        try:
            while part := os.read(screen.fileno(), 65536):
                parts.append(part)
        except OSError:  # on Linux, the end of a terminal without a process
            pass
    assert process.wait(30) == 0
    return b"".join(parts).decode()


def test_without_a_topic_it_lists_every_page() -> None:
    """Each page has a line with its topic and its summary, in reading order."""
    done = call(["manual"], {})

    width = max(map(len, manual_pages()))
    assert done.code == 0
    assert done.out.splitlines() == [f"{page.topic:<{width}}  {page.summary}" for page in manual_pages().values()]


def test_in_a_pipe_a_page_is_its_markdown() -> None:
    """Every page can be searched and saved; neither colors nor a pager are in the way, and no configuration is read."""
    for topic, page in manual_pages().items():
        done = call(["--config", "/nowhere/config.toml", "manual", topic], {"PAGER": "false"})
        assert (done.code, done.out, done.err) == (0, page.text(), "")


def test_a_page_is_found_by_its_title_its_file_and_its_beginning() -> None:
    """People type what they see in the list, in a link, or the first word."""
    pages = manual_pages()

    assert call(["manual", "Query language"], {}).out == pages["query-language"].text()
    assert call(["manual", "query-language.md"], {}).out == pages["query-language"].text()
    assert call(["manual", "backup"], {}).out == pages["backup-and-restore"].text()


def test_an_unknown_topic_is_refused_with_the_nearest_one() -> None:
    """A misspelled topic is a usage error; `c` could be several pages."""
    misspelled, ambiguous, far = (call(["manual", word], {}) for word in ("tutorail", "c", "\x1bpelican"))

    assert (misspelled.code, ambiguous.code, far.code) == (2, 2, 2)
    assert "the manual has no page `tutorail`; did you mean `tutorial`?" in misspelled.err
    assert "run `audience-sync manual` to list all pages" in ambiguous.err
    assert "the manual has no page `\\x1bpelican`" in far.err
    assert misspelled.out == ""


def test_on_a_terminal_a_page_is_formatted() -> None:
    """Headings are set off, tables and paragraphs fit the terminal, and the page goes through the pager."""
    text = on_terminal("manual", "security", columns=60)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()

    assert "\x1b[" in text
    assert "Security" in lines[0]
    assert "# Security" not in text
    assert max(len(line.rstrip()) for line in lines) <= 60
