"""Every example of the query language on real events: each database finds the members and values that counting finds.

Next to each query is its meaning, as plain Python over the events of one user. The default run looks at every eighth
user; slow tests look at all of them. Each query is asked as of one instant in one shape of the data, others in every
database; `AUDIENCE_SYNC_EVERY_INSTANT=1` asks all queries in all shapes as of each month of the purchases and each week
of the clickstream.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.engine import make_url

from audience_sync.audiences.definition import open_definition
from audience_sync.config import Audience, Settings, load
from audience_sync.core.model import Computation
from audience_sync.errors import SourceError
from tests import real_data
from tests.acceptance.running import ON_ONE_DATABASE, Place, open_place
from tests.real_data import ORDER, Event, Shape, World

EVERY_INSTANT = "AUDIENCE_SYNC_EVERY_INSTANT" in os.environ
MONTHS = [datetime(1997 + month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in range(19)]
WEEKS = [datetime(2024, 1, 8, 19, 30, tzinfo=UTC) + timedelta(weeks=week) for week in range(26)]
WEST, INDIA = ZoneInfo("America/Los_Angeles"), ZoneInfo("Asia/Kolkata")
STRIDE = 7  # shares no factor with the number of months or weeks, so that all have their turn
PLACES = ("sqlite", "postgres", "duckdb", "files")
SEED = "event('Order Completed').within(30 days).count() >= 1"
SEED_AS_SQL = """
SELECT DISTINCT user_id FROM columns_events
WHERE event = 'Order Completed' AND timestamp >= datetime(:now, '-30 days') AND timestamp <= :now
"""


@dataclass(frozen=True)
class Person:
    """One user as of an instant: the events until then, oldest first, and the traits of the profile."""

    as_of: datetime
    events: Sequence[Event]
    traits: dict[str, Any]

    def did(self, name: str, **ago: float) -> list[Event]:
        """Return the events of a name, in the time before the instant that is asked for: `days=7`."""
        since = self.as_of - timedelta(**ago) if ago else datetime.min.replace(tzinfo=UTC)
        return [one for one in self.events if one.name == name and one.at >= since]

    def did_between(self, name: str, *, near: int, far: int) -> list[Event]:
        """Return the events of a name that are between so many days ago."""
        return [one for one in self.did(name, days=far) if one.at <= self.as_of - timedelta(days=near)]

    def since(self, name: str, start: Callable[[datetime], datetime], zone: ZoneInfo | None = None) -> list[Event]:
        """Return the events of a name from the midnight on which a period began, as `start` finds it."""
        local = self.as_of.astimezone(zone or UTC)
        midnight = start(local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None))
        return [one for one in self.did(name) if one.at >= midnight.replace(tzinfo=zone or UTC)]

    def after(self, parent: Event, name: str, **within: float) -> list[Event]:
        """Return the events of a name that follow an event, in so much time: `days=5`."""
        return [one for one in self.did(name) if parent.at < one.at <= parent.at + timedelta(**within)]

    def session(self, name: str, **gap: float) -> list[Event]:
        """Return the newest events of a name, back to the first gap that is longer; none if it goes on now."""
        found: list[Event] = []
        following = self.as_of
        for one in reversed(self.did(name)):
            if following - one.at > timedelta(**gap):
                break
            found.append(one)
            following = one.at
        return found

    @property
    def orders(self) -> list[Event]:
        """All purchases."""
        return self.did(ORDER)


class Example(NamedTuple):
    """A query, and what it means for a person: a truth for an audience, a value or None for a computed trait."""

    entries: str  # audiences or traits
    query: str
    means: Callable[[Person], Any]
    key: str = ""  # under which others ask for it
    zone: ZoneInfo | None = None
    shapes: tuple[Shape, ...] = tuple(Shape)


audience = partial(Example, "audiences")
trait = partial(Example, "traits")
PROFILES = (Shape.JSON, Shape.COLUMNS)


def values(events: Iterable[Event], name: str) -> list[Any]:
    """Return a property of events."""
    return [one.properties[name] for one in events]


def mean(numbers: Sequence[float]) -> float | None:
    """Return the average, None of nothing."""
    return math.fsum(numbers) / len(numbers) if numbers else None


def total(numbers: Sequence[float]) -> float | None:
    """Return the sum, None of nothing."""
    return math.fsum(numbers) if numbers else None


def first(events: Sequence[Event], name: str) -> Any:
    """Return the oldest value; of several at one instant that with the smallest text."""
    return min(((one.at, str(one.properties[name]), one.properties[name]) for one in events), default=[None])[-1]


def last(events: Sequence[Event], name: str) -> Any:
    """Return the newest value; of several at one instant that with the greatest text."""
    return max(((one.at, str(one.properties[name]), one.properties[name]) for one in events), default=[None])[-1]


def mode(found: Iterable[Any], at_least: int) -> str | None:
    """Return the text that occurs most often, if that is often enough; of several the smallest."""
    often = Counter(map(str, found))
    most = max(often.values(), default=0)
    return min(text for text, times in often.items() if times == most) if most >= at_least and most else None


def distinct(found: Iterable[Any]) -> list[str] | None:
    """Return the texts that occur, None of nothing."""
    return sorted(set(map(str, found))) or None


def first_of_month(day: datetime) -> datetime:
    """Return the day on which the month of a day began."""
    return day.replace(day=1)


def first_of_quarter(day: datetime) -> datetime:
    """Return the day on which the quarter of a day began."""
    return day.replace(day=1, month=(day.month - 1) // 3 * 3 + 1)


def monday(day: datetime) -> datetime:
    """Return the Monday before a day, or the day."""
    return day - timedelta(days=day.weekday())


def exceeds(number: float | None, limit: float | None) -> bool:
    """Return whether a number is greater than another; nothing is greater than None, and None than nothing."""
    return number is not None and limit is not None and number > limit


def reaches(number: float | None, limit: float | None) -> bool:
    """Return whether a number is at least another, likewise."""
    return number is not None and limit is not None and number >= limit


def average_count(me: Person) -> float | None:
    """Return how many discs a person buys at once on average."""
    return mean(values(me.orders, "count"))


def spent(me: Person) -> float | None:
    """Return what a person has ever spent."""
    return total(values(me.orders, "dollars"))


def joined(me: Person) -> datetime:
    """Return the midnight of the day on which a person first bought something, be it after the instant."""
    return datetime.combine(me.traits["joined"], datetime.min.time(), UTC)


PURCHASES = [
    audience(SEED, lambda me: me.did(ORDER, days=30) != [], key="order_completed_last_30days"),
    # The examples of the reference, with the names of this shop.
    audience(
        "event('Order Completed').where( property('dollars') >= 100 ).within(7 days).count() >= 1",
        lambda me: any(one.properties["dollars"] >= 100 for one in me.did(ORDER, days=7)),
    ),
    trait("event('Order Completed').avg(property('count'))", average_count, key="avg_count"),
    trait("event('Order Completed').sum(property('dollars'))", spent, key="total_spend"),
    audience(
        """event('Order Completed').where(
property('count') >= trait('avg_count')
AND
event('Order Completed').within(parent: 5 days).count() >= 1
).within(30 days).count() >= 1""",
        lambda me: any(
            reaches(one.properties["count"], average_count(me)) and me.after(one, ORDER, days=5)
            for one in me.did(ORDER, days=30)
        ),
    ),
    audience(
        "NOT ( event('Order Completed').count() >= 1 AND trait('total_spend') > 200 )",
        lambda me: not (me.orders and exceeds(spent(me), 200)),
    ),
    trait(
        "event('Order Completed').within(30 days).avg(property('dollars'))",
        lambda me: mean(values(me.did(ORDER, days=30), "dollars")),
    ),
    trait(
        "event('Order Completed').where( property('dollars') > 25 AND property('count') = 2 ).min(property('dollars'))",
        lambda me: min(
            (o.properties["dollars"] for o in me.orders if o.properties["dollars"] > 25 and o.properties["count"] == 2),
            default=None,
        ),
    ),
    trait(
        "event('Order Completed').within(30 days).first(property('dollars'))",
        lambda me: first(me.did(ORDER, days=30), "dollars"),
    ),
    trait(
        "event('Order Completed').within(30 days).mode(property('dollars'), 2)",
        lambda me: mode(values(me.did(ORDER, days=30), "dollars"), 2),
    ),
    # Windows.
    trait(
        "event('Order Completed').between(7 days, 10 days).count()",
        lambda me: len(me.did_between(ORDER, near=7, far=10)),
    ),
    audience(
        "event('Order Completed').between(60 days, 0 days).count() > 1",
        lambda me: len(me.did_between(ORDER, near=0, far=60)) > 1,
    ),
    audience("event('Order Completed').within(720 hours).count() = 1", lambda me: len(me.did(ORDER, days=30)) == 1),
    audience("event('Order Completed').within(2 weeks).count() != 0", lambda me: len(me.did(ORDER, weeks=2)) != 0),
    trait(
        "event('Order Completed').within(1 month).count()",
        lambda me: sum(one.at >= month_before(me.as_of, UTC) for one in me.orders),
    ),
    trait("event('Order Completed').since(start of month).count()", lambda me: len(me.since(ORDER, first_of_month))),
    trait(
        "event('Order Completed').since(start of month).sum(property('dollars'))",
        lambda me: total(values(me.since(ORDER, first_of_month, WEST), "dollars")),
        zone=WEST,
    ),
    audience(
        "event('Order Completed').since(start of quarter).count() >= 2",
        lambda me: len(me.since(ORDER, first_of_quarter, INDIA)) >= 2,
        zone=INDIA,
    ),
    audience(
        "event('Order Completed').since(start of year).max(property('dollars')) < 20",
        lambda me: exceeds(
            20, max(values(me.since(ORDER, lambda d: d.replace(day=1, month=1)), "dollars"), default=None)
        ),
    ),
    audience("event('Order Completed').since(start of week).count() >= 1", lambda me: me.since(ORDER, monday) != []),
    audience(
        "event('Order Completed').since(start of day).count() >= 1",
        lambda me: me.since(ORDER, lambda day: day, WEST) != [],
        zone=WEST,
    ),
    audience(
        "event('Order Completed').expires_after(60 days).count() >= 3", lambda me: len(me.session(ORDER, days=60)) >= 3
    ),
    trait(
        "event('Order Completed').expires_after(60 days).sum(property('dollars'))",
        lambda me: total(values(me.session(ORDER, days=60), "dollars")),
    ),
    # Funnels.
    audience(
        "event('Order Completed').where(event('Order Completed')"
        ".where(property('dollars') > property(parent: 'dollars')).within(parent: 60 days).count() >= 1).count() >= 1",
        lambda me: any(
            later.properties["dollars"] > one.properties["dollars"]
            for one in me.orders
            for later in me.after(one, ORDER, days=60)
        ),
    ),
    trait(
        "event('Order Completed').where(event('Order Completed').between(parent: 1 day, 30 days).count() = 0).count()",
        lambda me: sum(
            not [later for later in me.after(one, ORDER, days=30) if later.at >= one.at + timedelta(days=1)]
            for one in me.orders
        ),
    ),
    audience(
        "event('Order Completed').where(event('Order Completed').within(30 days).count() >= 2)"
        ".where(property('dollars') > 40).count() >= 1",
        lambda me: len(me.did(ORDER, days=30)) >= 2 and any(one.properties["dollars"] > 40 for one in me.orders),
    ),
    trait(
        "event('Order Completed').where(event('Order Completed').within(parent: 10 days).sum(property('count')) >= 4)"
        ".first(property('dollars'))",
        lambda me: first(
            [o for o in me.orders if reaches(total(values(me.after(o, ORDER, days=10), "count")), 4)], "dollars"
        ),
    ),
    # Reducers.
    trait("event('Order Completed').last(property('dollars'))", lambda me: last(me.orders, "dollars")),
    trait(
        "event('Order Completed').max(property('dollars'))", lambda me: max(values(me.orders, "dollars"), default=None)
    ),
    audience(
        "event('Order Completed').min(property('count')) = 3",
        lambda me: min(values(me.orders, "count"), default=0) == 3,
    ),
    trait("event('Order Completed').mode(property('count'))", lambda me: mode(values(me.orders, "count"), 2)),
    audience(
        "event('Order Completed').mode(property('count'), 4) = '1'",
        lambda me: mode(values(me.orders, "count"), 4) == "1",
    ),
    trait("event('Order Completed').unique(property('count'))", lambda me: distinct(values(me.orders, "count"))),
    audience(
        "event('Order Completed').unique(property('count')).count() >= 3",
        lambda me: len(set(values(me.orders, "count"))) >= 3,
    ),
    # Comparators.
    audience(
        "event('Order Completed').where(property('count').one_of(2, '3', 4)).within(90 days).count() = 0",
        lambda me: not any(one.properties["count"] in {2, 3, 4} for one in me.did(ORDER, days=90)),
    ),
    audience(
        "event('Order Completed').where(property('count').none_of(1, 2)).count().at_least(literal(2))",
        lambda me: sum(one.properties["count"] not in {1, 2} for one in me.orders) >= 2,
    ),
    trait(
        "event('Order Completed').where(property('dollars').contains('.99', '.49')).count()",
        lambda me: sum(
            ".99" in str(one.properties["dollars"]) or ".49" in str(one.properties["dollars"]) for one in me.orders
        ),
    ),
    audience(
        "event('Order Completed').where(property('dollars').ends_with('.77')).count() > 1 OR"
        " event('Order Completed').within(60 days).where(property('dollars').matches('^[0-9](\\\\.[0-9]+)?$'))"
        ".count() > 0",
        lambda me: (
            sum(str(one.properties["dollars"]).endswith(".77") for one in me.orders) > 1
            or any(one.properties["dollars"] < 10 for one in me.did(ORDER, days=60))
        ),
    ),
    audience("trait('avg_count').absent()", lambda me: average_count(me) is None),
    audience(
        "trait('order_completed_last_30days') = true AND NOT trait('total_spend') > 50.5",
        lambda me: me.did(ORDER, days=30) != [] and not exceeds(spent(me), 50.5),
    ),
    audience(
        "NOT trait('order_completed_last_30days') = true AND trait('avg_count') > 2 OR trait('total_spend') >= 1000",
        lambda me: (not me.did(ORDER, days=30) and exceeds(average_count(me), 2)) or reaches(spent(me), 1000),
    ),
    # Traits of the profile, and dates.
    audience("trait('number').starts_with('00')", lambda me: me.traits["number"].startswith("00"), shapes=PROFILES),
    trait("trait('number')", lambda me: me.traits["number"], shapes=PROFILES),
    audience(
        "trait('joined').before_last(90 days) AND event('Order Completed').within(90 days).count() = 0",
        lambda me: joined(me) <= me.as_of - timedelta(days=90) and not me.did(ORDER, days=90),
        shapes=PROFILES,
    ),
    audience(
        "trait('joined').within_last(30 days)",
        lambda me: me.as_of - timedelta(days=30) <= joined(me) <= me.as_of,
        shapes=PROFILES,
    ),
    audience(
        "trait('joined').within_next(14 days) OR trait('joined').after_next(60 days)",
        lambda me: (
            timedelta(0) <= joined(me) - me.as_of <= timedelta(days=14) or joined(me) - me.as_of >= timedelta(days=60)
        ),
        shapes=PROFILES,
    ),
    audience(
        "trait('joined').after_date('1997-02-01T12:00:00Z') AND trait('joined').before_date(1997-03-01)",
        lambda me: datetime(1997, 2, 1, 12, tzinfo=UTC) < joined(me) < datetime(1997, 3, 1, tzinfo=WEST),
        zone=WEST,
        shapes=PROFILES,
    ),
    audience(
        "trait('joined') >= 1997-03-15 OR trait('joined') = 1997-01-01",
        lambda me: joined(me) >= datetime(1997, 3, 15, tzinfo=UTC) or joined(me) == datetime(1997, 1, 1, tzinfo=UTC),
        shapes=PROFILES,
    ),
]


def platform(me: Person, name: str) -> list[str]:
    """Return on what a person did something, each time."""
    return values(me.did(name), "platform")


def bought_after(me: Person, events: Iterable[Event], **within: float) -> list[Event]:
    """Return the events that a purchase followed in so much time."""
    return [one for one in events if me.after(one, "purchase", **within)]


CLICKS = [
    audience(
        "event('add_to_cart').where(event('purchase').within(parent: 1 day).count() = 0).within(7 days).count() >= 1",
        lambda me: any(not me.after(one, "purchase", days=1) for one in me.did("add_to_cart", days=7)),
        key="left_behind",
    ),
    trait(
        "event('product_view').where(event('add_to_cart').where(event('purchase').within(parent: 2 hours).count() >= 1)"
        ".within(parent: 30 minutes).count() >= 1).count()",
        lambda me: sum(
            bought_after(me, me.after(one, "add_to_cart", minutes=30), hours=2) != [] for one in me.did("product_view")
        ),
    ),
    audience(
        "event('search').where(event('add_to_cart').where(property('session_id') = property(parent: 'session_id'))"
        ".within(parent: 1 day).count() >= 2).count() >= 1",
        lambda me: any(
            values(me.after(one, "add_to_cart", days=1), "session_id").count(one.properties["session_id"]) >= 2
            for one in me.did("search")
        ),
    ),
    audience(
        "event('promo_page').where(event('purchase').between(parent: 1 minute, 20 minutes).count() >= 1).count() >= 1",
        lambda me: any(
            one.at + timedelta(minutes=1) <= bought.at
            for one in me.did("promo_page")
            for bought in me.after(one, "purchase", minutes=20)
        ),
    ),
    audience(
        "event('cart').where(context('device.type') = 'mobile' AND property('user_lifecycle') != 'loyal').count() >= 1",
        lambda me: any(
            o.properties["platform"] == "mobile" and o.properties["user_lifecycle"] != "loyal" for o in me.did("cart")
        ),
    ),
    trait(
        "event('home').where(context('campaign\\.medium').starts_with('paid')).within(14 days).count()",
        lambda me: sum(one.properties["acquisition_channel"] == "paid_search" for one in me.did("home", days=14)),
    ),
    audience(
        "event('product_view').sources({exclude: 'mobile', 'tablet'}).within(3 weeks).count() >= 10",
        lambda me: (
            sum(o.properties["platform"] not in {"mobile", "tablet"} for o in me.did("product_view", weeks=3)) >= 10
        ),
    ),
    trait(
        "event('product_view').sources({exclude: ['desktop']}).last(property('platform'))",
        lambda me: last([o for o in me.did("product_view") if o.source != "desktop"], "platform"),
    ),
    audience(
        "event('catalog').where(context('labels.$') = 'tablet' AND NOT context('labels.$') = 'loyal').count() > 0",
        lambda me: any(
            o.properties["platform"] == "tablet" and o.properties["user_lifecycle"] != "loyal"
            for o in me.did("catalog")
        ),
    ),
    trait(
        "event('catalog').mode(context('labels.$'), 5)",
        lambda me: mode((label for one in me.did("catalog") for label in (one.context or {})["labels"]), 5),
    ),
    audience(
        "event('catalog').unique(context('labels.$')).count() >= 5",
        lambda me: len({label for one in me.did("catalog") for label in (one.context or {})["labels"]}) >= 5,
    ),
    trait(
        "event('product_view').expires_after(2 days).unique(property('session_id')).count()",
        lambda me: len(set(values(me.session("product_view", days=2), "session_id"))),
    ),
    trait(
        "event('product_view').expires_after(6 hours).first(property('session_id'))",
        lambda me: first(me.session("product_view", hours=6), "session_id"),
    ),
    audience(
        "event('search').where(property('acquisition_channel').contains('search', 'soc')).within(48 hours)"
        ".count() >= 1",
        lambda me: any(
            o.properties["acquisition_channel"] in {"paid_search", "social"} for o in me.did("search", hours=48)
        ),
    ),
    audience(
        "event('search').where(property('platform').omits('table') AND property('user_lifecycle').ends_with('ing'))"
        ".count() >= 5",
        lambda me: (
            sum(
                o.properties["platform"] != "tablet" and o.properties["user_lifecycle"] == "returning"
                for o in me.did("search")
            )
            >= 5
        ),
    ),
    trait(
        "event('account_page').where(property('acquisition_channel').matches('^(paid|org).*[ch]$')).count()",
        lambda me: sum(
            o.properties["acquisition_channel"] in {"paid_search", "organic"} for o in me.did("account_page")
        ),
    ),
    audience(
        "event('purchase').where(property('user_lifecycle').one_of('new', 'returning')).count() >= 1",
        lambda me: any(o.properties["user_lifecycle"] in {"new", "returning"} for o in me.did("purchase")),
    ),
    audience(
        "NOT event('purchase').where(property('user_lifecycle').none_of('new')).count() >= 1",
        lambda me: all(one.properties["user_lifecycle"] == "new" for one in me.did("purchase")),
    ),
    trait("event('home').mode(property('platform'), 3)", lambda me: mode(platform(me, "home"), 3), key="usual"),
    audience(
        "trait('usual') = 'desktop' OR trait('usual').absent() AND event('wishlist_add').count() > 2",
        lambda me: (
            mode(platform(me, "home"), 3) == "desktop"
            or (mode(platform(me, "home"), 3) is None and len(me.did("wishlist_add")) > 2)
        ),
    ),
    trait("event('purchase').first(property('platform'))", lambda me: first(me.did("purchase"), "platform")),
    audience(
        "event('purchase').last(property('user_lifecycle')) = 'loyal'",
        lambda me: last(me.did("purchase"), "user_lifecycle") == "loyal",
    ),
    trait("event('cart').unique(property('platform'))", lambda me: distinct(platform(me, "cart"))),
    trait("event('cart').min(property('platform') as string)", lambda me: min(platform(me, "cart"), default=None)),
    audience(
        "event('cart').max(property('platform') as string) < 'mobile'",
        lambda me: max(platform(me, "cart"), default="z") < "mobile",
    ),
    audience(
        "event('home').since(start of week).count() >= 1", lambda me: me.since("home", monday, INDIA) != [], zone=INDIA
    ),
    trait(
        "event('home').since(start of day).count()", lambda me: len(me.since("home", lambda day: day, WEST)), zone=WEST
    ),
    audience(
        "event('purchase').within(1 month).count() > 0 AND trait('left_behind') = 'true'",
        lambda me: (
            any(o.at >= month_before(me.as_of, WEST) for o in me.did("purchase"))
            and any(not me.after(one, "purchase", days=1) for one in me.did("add_to_cart", days=7))
        ),
        zone=WEST,
    ),
    audience(
        "event('payment_error').count() >= 1 AND event('purchase').count() = 0 AND event('support_chat').count() = 0",
        lambda me: bool(me.did("payment_error")) and not me.did("purchase") and not me.did("support_chat"),
    ),
    trait("event('review_page').count()", lambda me: len(me.did("review_page"))),
    trait("event('review_page').sum(property('platform'))", lambda _: None),  # words are no numbers
    audience(
        "trait('cohort') >= '2024-03' AND trait('acquisition_channel') != 'email'",
        lambda me: me.traits["cohort"] in {"2024-03", "2024-04"} and me.traits["acquisition_channel"] != "email",
        shapes=PROFILES,
    ),
    audience(
        "event('search').where(property('acquisition_channel') = trait('acquisition_channel')).count() = 1",
        lambda me: len(me.did("search")) == 1,
        shapes=PROFILES,
    ),
    audience(
        "trait('first_seen').within_last(1 week) OR trait('first_seen') < 2024-01-20T12:00:00+05:30",
        lambda me: (
            timedelta(0) <= me.as_of - me.traits["first_seen"] <= timedelta(weeks=1)
            or me.traits["first_seen"] < datetime(2024, 1, 20, 6, 30, tzinfo=UTC)
        ),
        shapes=PROFILES,
    ),
]


def month_before(instant: datetime, zone: tzinfo) -> datetime:
    """Return the same time of day in a time zone, a month before."""
    local = instant.astimezone(zone)
    year, month = divmod(local.year * 12 + local.month - 2, 12)
    lengths = [31, 29 if year % 4 == 0 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    return local.replace(year=year, month=month + 1, day=min(local.day, lengths[month]))


@pytest.fixture(
    scope="module",
    params=[
        "purchases",
        "clicks",
        pytest.param("all purchases", marks=pytest.mark.slow),
        pytest.param("all clicks", marks=pytest.mark.slow),
    ],
)
def data(request: pytest.FixtureRequest) -> tuple[World, list[Example], list[datetime]]:
    """A data set with its examples and instants."""
    every = 1 if request.param.startswith("all ") else 8
    if request.param.endswith("purchases"):
        return real_data.part_of(real_data.cdnow(), every), PURCHASES, MONTHS
    return real_data.part_of(real_data.ecom(), every), CLICKS, WEEKS


@pytest.fixture
def filled(request: pytest.FixtureRequest, data: tuple[World, Any, Any], place: str, tmp_path: Path) -> str | None:
    """The URL of a database of each kind with the data set in every shape; None: it lies in files."""
    world, *_ = data
    match place:
        case "sqlite":
            real_data.fill_sqlite(tmp_path / "real.db", world)
            return f"sqlite:///{tmp_path / 'real.db'}"
        case "postgres":
            url = str(request.getfixturevalue("postgres_url"))
            real_data.fill_postgres(plain(url), world)
            return url
        case "duckdb":
            real_data.fill_duckdb(tmp_path / "real.duckdb", world)
            return f"duckdb:///{tmp_path / 'real.duckdb'}"
        case _:
            real_data.fill_files(tmp_path, world)
            return None


def plain(url: str) -> str:
    """Return a URL as libpq knows it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def as_written(value: object) -> object:
    """Return a value as a text file has it: a text that JSON would write as a whole number is one."""
    return int(value) if isinstance(value, str) and re.fullmatch("0|[1-9][0-9]*", value) else value


@pytest.mark.slow
@pytest.mark.timeout(3600 if EVERY_INSTANT else 240)
@pytest.mark.parametrize("place", PLACES)
def test_every_example_agrees(
    data: tuple[World, list[Example], list[datetime]],
    place: str,
    filled: str | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Audiences and computed traits have, at every instant, the members and values that counting by hand finds."""
    world, examples, instants = data
    settings = {
        shape: configure(tmp_path, real_data.rooms(shape, tmp_path, filled), examples, shape) for shape in Shape
    }
    wrong, asked = [], []
    is_part = "all" not in request.node.callspec.params["data"]
    for shape, n, as_of in questions(examples, instants, place, is_part=is_part):
        expected = count(world, examples[n], as_of, shape)
        if place == "files" and ".mode(" not in examples[n].query:  # a mode is always a text
            expected = {user: as_written(value) for user, value in expected.items()}
        try:
            found = answers(settings[shape], settings[shape].audience(key_of(examples[n], n)), as_of)
            different: object = difference(found, expected)
        except SourceError as error:
            different = str(error)
        if different:
            wrong.append((examples[n].query, shape.value, f"{as_of:%Y-%m-%d}", different))
        asked.append(as_of)

    assert wrong == []
    assert len(set(asked)) == min(len(asked), len(instants))


@dataclass(frozen=True)
class Synced:
    """What is so after a sync: members with their identifiers, every change until now, and every body received."""

    members: dict[str, str | None]
    changes: list[tuple[Any, ...]]
    bodies: list[Any]


@pytest.mark.slow
@pytest.mark.timeout(600 if EVERY_INSTANT else 240)
@ON_ONE_DATABASE
def test_the_seed_is_synced_as_its_sql_is(tmp_path: Path, database_url: str, sqlite_template: Path) -> None:
    """Month by month the command keeps and sends for a query exactly what it does for the SQL of the same audience."""
    by_hand = tmp_path / "by_hand"
    by_hand.mkdir()
    shutil.copy(sqlite_template, by_hand / "audience_sync.db")
    for folder in (tmp_path, by_hand):
        real_data.fill_sqlite(folder / "real.db", real_data.cdnow())
    told: dict[str, list[Synced]] = {}
    for definition, folder, url in (
        (f"query = {json.dumps(SEED)}", tmp_path, database_url),
        (f"sql = {json.dumps(SEED_AS_SQL)}", by_hand, f"sqlite:///{by_hand / 'audience_sync.db'}"),
    ):
        with open_place(folder, url) as place:
            (folder / "config.toml").write_text(seed_config(place, definition))
            told[definition] = [sync(place, as_of) for as_of in (MONTHS if EVERY_INSTANT else MONTHS[:5])]
    of_query, of_sql = told.values()

    assert of_query == of_sql
    assert len(of_query[-1].bodies) > 2357  # everybody was in it once, and most left


def seed_config(place: Place, definition: str) -> str:
    """Return the configuration of the seed's audience, defined one way or the other."""
    return "\n".join(
        [
            "[database]",
            f"url = {json.dumps(place.database_url)}",
            "[schematic]",
            f"capture_url = {json.dumps(place.sandbox.url)}",
            f"api_url = {json.dumps(place.sandbox.url)}",
            "[delivery]",
            "max_requests_per_second = 2000",
            "[guard]",
            "min_members = 1_000_000",
            real_data.rooms(Shape.COLUMNS, place.folder, "sqlite:///real.db"),
            "[[audiences]]",
            'name = "Order Completed Last 30days"',
            definition,
        ]
    )


def sync(place: Place, as_of: datetime) -> Synced:
    """Sync as of an instant with the command, and return what is so then."""
    ended = place.command("sync", "--now", f"{as_of:%Y-%m-%dT%H:%M:%SZ}")
    assert ended.code == 0, ended.err
    changes = place.rows("SELECT profile_key, kind, identifiers, as_of FROM membership_changes")
    bodies = [
        [one.type, *(one.body.get(part) for part in ("keys", "traits", "company"))]
        for one in place.sandbox.ledger.events()
    ]
    return Synced(place.members(), sorted(changes), sorted(bodies, key=repr))


def questions(
    examples: Sequence[Example], instants: Sequence[datetime], place: str, *, is_part: bool
) -> Iterator[tuple[Shape, int, datetime]]:
    """Yield each example in every shape as of all instants, or a part of them in one as of one, which take turns.

    The parts differ, so that all examples are asked somewhere. Files are read again for every question.
    """
    if EVERY_INSTANT:
        for n, example in enumerate(examples):
            yield from ((shape, n, as_of) for shape in example.shapes for as_of in instants)
        return
    turn = PLACES.index(place)
    step = 3 if is_part or place == "files" else 1
    for asked, n in enumerate(range(turn % step, len(examples), step)):
        shapes = examples[n].shapes
        yield shapes[(asked + turn) % len(shapes)], n, instants[(asked * STRIDE + turn) % len(instants)]


def key_of(example: Example, number: int) -> str:
    """Return the key of an example."""
    return example.key or f"example_{number}"


def configure(folder: Path, rooms: str, examples: Sequence[Example], shape: Shape) -> Settings:
    """Return settings with the examples that can be asked of a shape."""
    entries: dict[str, list[str]] = {"audiences": [], "traits": []}
    for n, example in enumerate(examples):
        if shape in example.shapes:
            key = json.dumps(key_of(example, n))
            entries[example.entries] += [f"[[{example.entries}]]", f"name = {key}", f"key = {key}"]
            entries[example.entries] += [
                f"query = {json.dumps(example.query)}",
                f'timezone = "{example.zone or "UTC"}"',
            ]
    path = folder / f"{shape}.toml"
    path.write_text("\n".join([rooms, *entries["audiences"], *entries["traits"]]))
    return load(path, {})


def count(world: World, example: Example, as_of: datetime, shape: Shape) -> Any:
    """Return what an example means: who is a member, or everybody's value."""
    known: dict[str, list[Event]] = {} if shape is Shape.BARE else {user: [] for user in world.traits}
    for event in world.events:
        if event.at <= as_of:
            known.setdefault(event.user, []).append(event)
    found = {user: example.means(Person(as_of, events, world.traits[user])) for user, events in known.items()}
    if example.entries == "audiences":
        return {user: True for user, holds in found.items() if holds}
    return {user: value for user, value in found.items() if value is not None}


def answers(settings: Settings, asked: Audience, as_of: datetime) -> dict[str, Any]:
    """Return the same as the source has it."""
    found: dict[str, Any] = {}
    with open_definition(settings, asked, as_of=as_of) as rows:
        for row in (dict(zip(rows.columns, row, strict=True)) for page in rows.pages() for row in page):
            value = json.loads(row["value"] or "null") if asked.computation is Computation.TRAIT else True
            assert row["user_id"] not in found, f"{row['user_id']} is there twice"
            if value is not None:
                found[row["user_id"]] = value
    return found


def difference(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return, of three users at most, what was found and what was expected; numbers may differ in the last digits."""
    users = sorted(found.keys() | expected.keys())
    wrong = [user for user in users if not same(found.get(user), expected.get(user))]
    return {user: (found.get(user), expected.get(user)) for user in wrong[:3]}


def same(found: Any, expected: Any) -> bool:
    """Return whether two values are one; a whole number as a text is written with or without its `.0`."""
    match found, expected:
        case (bool(), _) | (_, bool()):
            return found is expected
        case (float() | int(), float() | int()):
            return math.isclose(found, expected, rel_tol=1e-12)
        case (str(), str()):
            return found.removesuffix(".0") == expected.removesuffix(".0")
        case _:
            return bool(found == expected)
