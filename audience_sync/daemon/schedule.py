"""When an audience is due next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

from audience_sync.config import Schedule


def next_due(schedule: Schedule, *, started_at: datetime, jitter: float) -> datetime:
    """Return when an audience whose sync started at `started_at` (aware) is due again, in UTC.

    That is `every` later, or at the next time of `cron`, and then up to `jitter` (a share in [0, 1)) of the schedule's
    own jitter later. A moment that has passed meanwhile is simply due at once: what was missed is caught up by one run.
    """
    if schedule.cron is not None:
        trigger = CronTrigger.from_crontab(schedule.cron, timezone=schedule.zone)
        at: datetime = trigger.get_next_fire_time(None, started_at + timedelta(seconds=1)).astimezone(UTC)
    elif schedule.every is not None:
        at = started_at + schedule.every
    else:
        raise ValueError("a schedule says every or cron")
    return at + schedule.jitter * jitter
