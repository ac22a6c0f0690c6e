"""Every console example of the manual can be typed as it stands, and prints what the page shows."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from audience_sync.manual.manual_pages import FOLDER
from tests import consoles

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path for path in [ROOT / "README.md", *sorted(FOLDER.glob("*.md"))] if "```console\n" in path.read_text("utf-8")
]


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_console_examples_run_as_printed(document: Path, tmp_path: Path) -> None:
    """A new user who types each command of a page, in order, sees the output of the page, and no command fails.

    A command that ends with another exit code than 0 is followed by `echo $?`, which shows it.
    """
    steps = list(consoles.steps_of(document.read_text(encoding="utf-8"), port=free_port()))
    outcomes = consoles.run(steps, tmp_path)
    asked = [following.script == "echo $?" for following in steps[1:]] + [False]

    wrong = [
        f"{document.name}:{step.line}: {step.script}: exit code {outcome.code}\n{outcome.output}"
        for step, outcome, is_asked in zip(steps, outcomes, asked, strict=False)
        if (outcome.code != 0) != is_asked
        or (step.expected is not None and not consoles.matches(step.expected, outcome.output, tmp_path))
    ]
    assert "\n".join(wrong) == ""
    assert len(outcomes) == len(steps), "the page took too long"


def test_there_are_console_examples() -> None:
    """The tutorial is one; whoever renames the language of its blocks renames it here, too."""
    assert any(path.stem == "tutorial" for path in DOCUMENTS)


def test_an_output_that_differs_is_found(tmp_path: Path) -> None:
    """Line breaks and times may differ; a word, a number or a missing command may not."""
    document = "```console\n$ printf '3 events\\n  at 2026-01-02 03:04:05Z\\n'\n3 events at 2026-11-30 00:00:00Z\n```\n"
    steps = list(consoles.steps_of(document, port=1))
    (outcome,) = consoles.run(steps, tmp_path)

    assert outcome.code == 0
    assert consoles.matches(steps[0].expected or "", outcome.output, tmp_path)
    assert not consoles.matches("4 events at 2026-11-30 00:00:00Z", outcome.output, tmp_path)
    assert not consoles.matches("", outcome.output, tmp_path)
    assert consoles.matches("3 … at …", outcome.output, tmp_path)


def test_a_file_is_saved_and_extended(tmp_path: Path) -> None:
    """The paragraph before a block makes it a file; a failing command keeps its exit code."""
    document = (
        "Save this as `a.txt`:\n\n```text\none\n```\n\nAdd this to `a.txt`:\n\n```text\ntwo\n```\n\n"
        "```console\n$ cat \\\n  a.txt\none\ntwo\n$ false\n$ echo $?\n1\n```\n"
    )
    steps = list(consoles.steps_of(document, port=1))
    outcomes = consoles.run(steps, tmp_path)

    assert [outcome.code for outcome in outcomes] == [0, 0, 0, 1, 0]
    assert [outcome.output.split() for outcome in outcomes] == [[], [], ["one", "two"], [], ["1"]]
    assert re.search(r"cat \\\n", steps[2].script)
