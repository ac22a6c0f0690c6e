"""Each known case in which Segment's own parser answers a trigger differently is documented, with our answer."""

from __future__ import annotations

import json
import re

import pytest

from audience_sync.manual.manual_pages import manual_pages
from audience_sync.segment.fql.matcher import matcher
from audience_sync.segment.fql.trigger_parser import parse

TABLE = manual_pages()["segment-differences"].text()
CASES: list[tuple[str, str, str]] = re.findall(r"^\| `(.+)` \| `(.+)` \| (yes|no) \| \S.* \|$", TABLE, re.MULTILINE)


@pytest.mark.parametrize(("trigger", "event", "here"), CASES)
def test_a_documented_difference(trigger: str, event: str, here: str) -> None:
    """The event of each row is matched, or not, as the row says."""
    assert matcher(parse(trigger))(json.loads(event)) is (here == "yes")


def test_every_row_is_tested() -> None:
    """No row of the table has another form, and would be skipped."""
    assert len(CASES) == TABLE.count("\n| `") > 25
