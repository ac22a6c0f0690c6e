"""The windows of streams as conditions on the time of an event."""

from __future__ import annotations

from datetime import datetime

from audience_sync.compiler.dialect import Truth
from audience_sync.compiler.selections import Selection, World
from audience_sync.query import calendar
from audience_sync.query.syntax_tree import Between, Since, Stream, Within
from audience_sync.query.vocabulary import Duration


def in_window(selection: Selection, window: Within | Between | Since) -> list[Truth]:
    """Return that an event of a selection lies in a window; its ends are part of it."""
    world, time = selection.world, selection.event.time
    match window:
        case Within(duration, of_parent=True):
            return _behind(selection, latest=duration)
        case Between(near, far, of_parent=True):
            near, far = sorted((near, far), key=calendar.length_of)
            return _behind(selection, earliest=near, latest=far)
        case Within(duration):
            return [time.instant >= time.constant(_ago(world, duration))]
        case Between(near, far):
            first, last = sorted((_ago(world, near), _ago(world, far)))
            return [time.instant >= time.constant(first), time.instant <= time.constant(last)]
        case Since(period):
            return [time.instant >= time.constant(calendar.start_of(period, world.as_of, world.zone))]


def starts_at(world: World, stream: Stream) -> datetime | None:
    """Return when the windows of a stream begin, if it has any."""
    found: list[datetime] = []
    for one in stream.filters:
        match one:
            case Within(duration, of_parent=False):
                found.append(_ago(world, duration))
            case Between(near, far, of_parent=False):
                found.append(min(_ago(world, near), _ago(world, far)))
            case Since(period):
                found.append(calendar.start_of(period, world.as_of, world.zone))
            case _:
                pass
    return max(found, default=None)


def _behind(selection: Selection, *, earliest: Duration | None = None, latest: Duration) -> list[Truth]:
    """Return that the event comes behind its parent, and so far at least and at most."""
    if selection.parent is None:
        raise AssertionError("only a child has a parent")
    own, before = selection.event.time, selection.parent.time
    found = [own.instant > before.instant, own.instant <= before.later(calendar.length_of(latest))]
    if earliest is not None:
        found.append(own.instant >= before.later(calendar.length_of(earliest)))
    return found


def _ago(world: World, duration: Duration) -> datetime:
    return calendar.shifted(world.as_of, duration, world.zone, sign=-1)
