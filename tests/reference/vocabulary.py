"""The few words made-up worlds and queries share, so that queries hit often: names, places of values, and values.

Numbers have one text in every database: whole numbers, and fractions that a double holds exactly. A number of the
values and a text of the values are never written alike, so it is plain which of the two `first` must return.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.reference.language import Path

EVENTS = ("Order Completed", "x'; DROP TABLE events; --", 'Größe "L" :now %s ☕')
USERS = ("u1", "Ünal", "o'4", "5", "U1", "u 6")
INTEGER_USERS = ("1", "2", "30", "5", "-7", "9007199254740993")
SOURCES = ("web", "it's")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
NUMBERS = (0, 1, 2, 5, 100, -3, 0.5, 2.25)
NUMERIC_TEXTS = ("10", "2.5", "-0.5", "1e2", "3")
FREQUENT_TEXTS = ("a", "B", "ab")
TEXTS = (
    *FREQUENT_TEXTS, "é", "a%b_", "it's", "",
    "🙂", "！", "007", "+4", " 6", "1,000", "NaN", "Infinity", "a\\b", '"', "[oops",
)  # fmt: skip
PATTERNS = (
    "a",
    "^a",
    "b$",
    "a.b",
    "[A-Z]",
    "^[0-9]+$",
    "é|B",
    "a%b_",
    "^$",
    "^.$",
    "[0-9]+\\.[0-9]",
    "(a|b)+",
    "\\\\",
    "'",
)
ODD_MOMENTS = (
    "2023-02-30", "2023-02-29", "2024-02-29", "2023-13-01", "now", "infinity", "epoch", "today", "20240201", "2024-2-1",
    "2024-02-01T25:00:00Z", "2024-02-01T10", " 2024-02-01", "2024-02-01T10:00:00Z ", "10:00",
)  # fmt: skip

INSTANTS = (
    datetime(2024, 3, 31, 12, 0, tzinfo=UTC),  # a month before is shorter
    datetime(2024, 3, 3, 23, 30, 0, 500_000, tzinfo=UTC),  # Sunday, and Monday in Berlin
    datetime(2024, 1, 1, 0, 0, tzinfo=UTC),  # another year in New York
    datetime(2023, 11, 5, 15, 0, tzinfo=UTC),  # a day of 25 hours in New York
)
"""As-of instants: none of them, nor their time of day a month before or after, is skipped or repeated by a clock."""

AGO = tuple(
    timedelta(milliseconds=milliseconds) + rest
    for rest in (
        *(timedelta(days=days) for days in (1, 2, 5, 7, 10, 29, 31, 80, 400)),
        *(timedelta(hours=hours) for hours in (0, 0.5, 1, 12, 36)),
    )
    for milliseconds in (0, -1, 1)
)
"""How long before as-of things happen: at the edges of windows, and one millisecond on either side of them."""


@dataclass(frozen=True)
class Place:
    """Where a value is, and what it mostly is: number, text, truth, moment, time (of a column), list, object, none."""

    path: Path
    kind: str


PROPERTIES = (
    Place(("price",), "number"),
    Place(("name",), "text"),
    Place(("when",), "moment"),
    Place(("flag",), "truth"),
    Place(("cart", "total"), "number"),
    Place(("cart.total",), "number"),
    Place(("größe",), "text"),
    Place(('it"s',), "number"),
    Place(("tags", "$"), "text"),
    Place(("items", "$", "sku"), "text"),
    Place(("items", "$", "total"), "number"),
    Place(("cart",), "object"),
    Place(("tags",), "list"),
    Place(("tags", "0"), "none"),
    Place(("nope",), "none"),
)
CONTEXTS = (Place(("page", "url"), "text"), Place(("ip",), "number"))
TRAITS = (
    Place(("plan",), "text"),
    Place(("age",), "number"),
    Place(("signup",), "moment"),
    Place(("vip",), "truth"),
    Place(("address", "city"), "text"),
    Place(("langs", "$"), "text"),
    Place(("a.b",), "number"),
)

EVENT_COLUMNS = {
    "amount": "integer",
    "cart.total": "double",
    "größe": "text",
    'it"s %': "text",
    "order": "truth",
    "when": "time",
    "data": "json",
}
USER_COLUMNS = {"plan": "text", "age": "integer", "signup": "time", "vip": "truth", "a.b": "double", "info": "json"}

PLAIN_PROPERTIES = (
    Place(("amount",), "number"),
    Place(("cart.total",), "number"),
    Place(("größe",), "text"),
    Place(('it"s %',), "text"),
    Place(("order",), "truth"),
    Place(("when",), "time"),
    Place(("data", "tags", "$"), "text"),
    Place(("data", "x"), "number"),
)
PLAIN_TRAITS = (
    Place(("plan",), "text"),
    Place(("age",), "number"),
    Place(("signup",), "time"),
    Place(("vip",), "truth"),
    Place(("a.b",), "number"),
    Place(("info", "x"), "text"),
)
