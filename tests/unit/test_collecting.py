"""The garbage collector is slowed down while rows are read, and never switched off."""

from __future__ import annotations

import gc

from audience_sync.collecting import OBJECTS, seldom_collected


def test_the_usual_thresholds_come_back() -> None:
    """Several syncs may read at once: the last of them to end puts the collector back as it was, whatever happened."""
    usual = gc.get_threshold()
    first, second = seldom_collected(), seldom_collected()

    with first:
        second.__enter__()
        assert gc.get_threshold() == (OBJECTS, *usual[1:])
    assert gc.get_threshold() == (OBJECTS, *usual[1:])
    assert gc.isenabled()
    second.__exit__(None, None, None)

    assert gc.get_threshold() == usual
