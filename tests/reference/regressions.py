"""Cases in which a database once disagreed with the evaluator, in their smallest form."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.reference.language import Comparison, Duration, Field, Number, Reduced, Stream, Test, Text, Trait, Truth
from tests.reference.worlds import Case, Definition, Event, Profile, Shape, World

NOW = datetime(2024, 3, 31, 12, 0, tzinfo=UTC)
BOUGHT = Stream("Order Completed")
PLAIN = Shape(plain=True)
NO_SKUS: tuple[Any, ...] = ({"tags": ["a"]}, {}, None, {"tags": []}, {"tags": "a"}, {"tags": ["b", 1]})


def bought(**properties: Any) -> tuple[Event, ...]:
    """Return one event for each user, with these properties."""
    return tuple(
        Event(user, "Order Completed", NOW, found, spelled="2024-03-31T12:00Z") for user, found in properties.items()
    )


def case(
    *definitions: Definition,
    events: tuple[Event, ...] = (),
    profiles: tuple[Profile, ...] | None = None,
    shape: Shape | None = None,
) -> Case:
    """Return a case as of NOW."""
    return Case(World(events, profiles), definitions, NOW, shape or Shape())


COUNT = Definition("number", Reduced(BOUGHT, "count"))
BUYERS = Definition("buyers", Comparison(Trait(("number",)), "equals", Number(1)))
OTHERS = Definition("others", Comparison(Trait(("buyers",)), "equals", Truth(False)))
LAST = Definition("last", Reduced(BOUGHT, "last", Field(("price",))))
ODD = Field(('it"s %',))
TAGS = Field(("tags", "$"))
TAGGED = {f"u{number}": found for number, found in enumerate(NO_SKUS)}

REGRESSIONS: dict[str, Case] = {
    "a time with a blank behind it is none": case(
        Definition("soon", Test(Trait(("signup",)), "after_next", (Duration(24, "hour"),))),
        profiles=(Profile("1", {"signup": "2024-06-01T10:00:00Z "}),),
    ),
    "a definition that uses another says of everybody what is so of somebody": case(
        COUNT,
        BUYERS,
        OTHERS,
        LAST,
        Definition("priced", Test(Trait(("last",)), "exists")),
        events=(*bought(a={"price": 5}, b={"price": 2}, c={}), Event("d", "Other", NOW)),
    ),
    "who is not in an audience is false in one that uses it": case(
        COUNT, BUYERS, OTHERS, events=bought(a={}), profiles=(Profile("a"), Profile("b"))
    ),
    "the list of unique texts in its order": case(
        Definition("all", Reduced(BOUGHT, "unique", Field(("price",)))),
        events=bought(a={"price": "b"}, b={"price": 10}),
    ),
    "a column with a quote and a percent sign in its name": case(
        Definition("least", Reduced(BOUGHT, "min", ODD)),
        Definition("none", Test(Reduced(BOUGHT, "avg", ODD), "none_of", (Number(2),))),
        events=bought(a={'it"s %': "10"}, b={'it"s %': "x"}),
        shape=PLAIN,
    ),
    "the elements of a list that is not there": case(
        *(Definition(name, Reduced(BOUGHT, name, TAGS)) for name in ("sum", "last", "mode", "unique")),
        Definition("few", Comparison(Reduced(BOUGHT, "max", TAGS, "string"), "at_most", Text("a"))),
        events=bought(**TAGGED),
    ),
    "the elements of a list of the profile that is not there": case(
        Definition("ends", Test(Trait(("tags", "$")), "ends_with", (Text("a"),))),
        Definition("differs", Comparison(Trait(("tags", "$")), "differs", Text("a"))),
        profiles=tuple(Profile(user, traits) for user, traits in TAGGED.items()),
    ),
    "an average with all the digits of a double": case(
        Definition("avg", Reduced(BOUGHT, "avg", Field(("price",)))),
        events=tuple(
            Event("a", "Order Completed", NOW - timedelta(days=price), {"price": price}) for price in (1, 2, 2)
        ),
    ),
    "columns of truths in order": case(
        Definition("ordered", Comparison(Trait(("vip",)), "at_most", Trait(("vip",)))),
        profiles=(Profile("a", {"vip": True}), Profile("b", {"vip": False}), Profile("c")),
        shape=PLAIN,
    ),
    "an event on a day that does not exist": case(
        Definition("times", Reduced(BOUGHT, "count")),
        events=(Event("a", "Order Completed", None, spelled="2023-02-30"), *bought(b={})),
        shape=Shape(text_timestamps=True),
    ),
    "the sum of a column that has no numbers": case(
        Definition("sum", Reduced(BOUGHT, "sum", Field(("order",)))), events=bought(a={"order": True}), shape=PLAIN
    ),
    "a number compared with a column of truths": case(
        Definition(
            "more", Comparison(Reduced(BOUGHT, "count"), "greater_than", Reduced(BOUGHT, "first", Field(("order",))))
        ),
        events=bought(a={"order": True}),
        shape=PLAIN,
    ),
}
