"""Sentences for people change on purpose: the list of them is read, and changes with them."""

from __future__ import annotations

from tests.sentences import RECORD, sentences


def test_the_list_of_sentences_is_that_of_the_program() -> None:
    """Everything that the program says is read in one file; `python -m tests.sentences --record` writes it."""
    assert sentences() == RECORD.read_text(encoding="utf-8")


def test_the_list_has_errors_hints_help_and_questions() -> None:
    """Sentences of every kind are found, and neither docstrings nor SQL."""
    found = sentences().splitlines()

    assert "there is no membership database at {…}" in found
    assert "create it with `audience-sync init`" in found
    assert "Give up after waiting this long for the destination or another process." in found
    assert any(line.startswith("Deliver everything pending, then exit.") for line in found)
    assert not [line for line in found if line.startswith(("SELECT ", "Return ", "INSERT "))]
