"""When an audience is due next.

A `cron` expression names wall-clock times. APScheduler says which ones it names; it is asked in UTC, because in a
zone whose clocks change its `CronTrigger` skips runs and repeats others without end. Which instants a wall-clock
time is in the schedule's zone is decided here, so that no run is skipped:

- A time that exists once is that instant.
- A time that the clocks skip is the first instant after the gap.
- A time that occurs twice is its first occurrence, and also the second one if the minute or the hour of the
  expression begins with `*`. Such a schedule counts elapsed time: `*/30 * * * *` stays 30 minutes apart. Debian's
  cron draws the same line.

The libraries that know time zones keep to neither the first rule nor the meaning of existing expressions: cronsim
2.8 leaves out the 02:00 of `0 */2 * * *` when it does not exist, croniter 7.0 runs `30 2 * * *` twice in autumn,
and both join day and weekday by "or" and start the week on Sunday.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from audience_sync.config import Schedule

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def next_due(schedule: Schedule, *, started_at: datetime, jitter: float) -> datetime:
    """Return when an audience whose sync started at `started_at` (aware) is due again, in UTC.

    That is `every` later, or at the next time of `cron`, and then up to `jitter` (a share in [0, 1)) of the schedule's
    own jitter later. A time that has passed meanwhile is due at once: one run catches up on all that was missed.
    """
    if schedule.cron is not None:
        at = next_time(schedule.cron, schedule.zone, after=started_at)
    elif schedule.every is not None:
        at = started_at + schedule.every
    else:
        raise ValueError("a schedule needs `every` or `cron`")
    return at + schedule.jitter * jitter


def next_time(cron: str, zone: ZoneInfo, *, after: datetime) -> datetime:
    """Return the first instant after `after` (aware) at which a crontab of five fields runs in a zone, in UTC."""
    trigger = CronTrigger.from_crontab(cron, timezone=UTC)
    minute, hour, *_ = cron.split()
    folds = (0, 1) if minute.startswith("*") or hour.startswith("*") else (0,)
    return min(_next_in(trigger, zone, after, fold=fold) for fold in folds)


def _next_in(trigger: CronTrigger, zone: ZoneInfo, after: datetime, *, fold: int) -> datetime:
    """Return the first run after `after` if of two equal wall-clock times only the first (0) or second (1) counts."""
    wall = after.astimezone(zone).replace(microsecond=0, tzinfo=UTC)
    if fold:  # where `after` is in the first pass, times that were seen already come again
        wall -= _repeated(wall, zone)
    while True:
        wall = trigger.get_next_fire_time(None, wall)
        at = _instant(wall, zone, fold=fold)
        if at > after:
            return at
        wall += MINUTE


def _repeated(wall: datetime, zone: ZoneInfo) -> timedelta:
    """Return how long the clocks go back at a wall-clock time that occurs twice; zero for any other time."""
    return max(_offset(wall, zone, fold=0) - _offset(wall, zone, fold=1), timedelta())


def _instant(wall: datetime, zone: ZoneInfo, *, fold: int) -> datetime:
    """Return the instant of a wall-clock time, and of one that does not exist the first instant after the gap."""
    before, after = _offset(wall, zone, fold=0), _offset(wall, zone, fold=1)
    if after <= before:
        return wall - (after if fold else before)
    # The clocks skip this time: they change between these two instants, read with the offset that holds afterwards.
    earliest = wall - after
    seconds = range(int((after - before) / SECOND) + 1)
    changed = bisect_left(seconds, True, key=lambda passed: _offset_at(earliest + passed * SECOND, zone) == after)
    return earliest + changed * SECOND


def _offset(wall: datetime, zone: ZoneInfo, *, fold: int) -> timedelta:
    return wall.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta()


def _offset_at(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()
