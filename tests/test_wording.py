"""The wording of code, tests and documentation is plain, and may only become plainer."""

from __future__ import annotations

import pytest

from tests.wording import Match, find, load_record, matches_in, new_matches


def test_no_text_is_worded_worse_than_before() -> None:
    """A file without matches stays clean, and the number of matches of each area never rises."""
    assert list(map(str, new_matches(find(), load_record()))) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'x' is no duration", ["is no"]),
        ("there is no API key; it is no longer valid", []),
        ('"""What a command prints."""\n', ['"""What a command prints."""']),
        ("Nothing else. What does it do?\n", []),
        ("# Who calls this must close it.\n", ["# Who calls this must close it."]),
        ("leave room beside the table", ["room", "beside"]),
    ],
)
def test_what_is_found(text: str, expected: list[str]) -> None:
    """Patterns match the listed wording, and not questions or common phrases that look similar."""
    assert sorted(match.text for match in matches_in("a.py", text)) == sorted(expected)


def test_what_counts_as_new() -> None:
    """New are matches in clean files, and matches in a file that has more, if its area as a whole has more."""

    def found(**counts: int) -> list[Match]:
        return [Match(f"a/{path}", n, "lest", "") for path, count in counts.items() for n in range(count)]

    recorded = {"a/x": 2, "a/y": 1}

    assert new_matches(found(x=2, y=1), recorded) == []
    assert new_matches(found(x=1, y=2), recorded) == []
    assert {match.path for match in new_matches(found(x=2, y=2), recorded)} == {"a/y"}
    assert {match.path for match in new_matches(found(x=1, z=1), recorded)} == {"a/z"}
