r"""The words of a query: what a text, a number, a date, a path, a duration or a pattern says as it is written.

A text stands in single or double quotes; in it a backslash stands before a quote or another backslash, and anywhere
else is only itself. A path is a text with dots between the names; one or more backslashes before a dot make it part of
the name, and the name `$` stands for every element of an array.

A regular expression of `matches` has only what Python, PostgreSQL and DuckDB all read.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

from audience_sync.query.syntax_tree import EACH, Duration, Path, TimeUnit

NUMBER = "-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][-+]?[0-9]{1,2})?"
"""The pattern of a text that is written as a number, as JSON writes it, in Python and in SQL."""
LONGEST_NUMBER = 40  # characters of such a text
EXACT = 2**53  # up to here a double holds every whole number
LONGEST_DURATION = 1000 * 366 * 86_400  # seconds

_NUMBER = re.compile(NUMBER)
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?P<time>[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?)?"
)
_SECONDS = {
    TimeUnit.SECOND: 1,
    TimeUnit.MINUTE: 60,
    TimeUnit.HOUR: 3_600,
    TimeUnit.DAY: 86_400,
    TimeUnit.WEEK: 7 * 86_400,
    TimeUnit.MONTH: 30 * 86_400,
}


def text_of(word: str) -> str:
    """Return what a text in quotes says."""
    return re.sub(r"\\([\\'\"])", r"\1", word[1:-1])


def quoted(text: str) -> str:
    """Return a text in single quotes; a backslash stands only before what would be read otherwise."""
    return "'" + re.sub(r"\\(?=[\\'\"]|\Z)|'", r"\\\g<0>", text) + "'"


def number_of_text(text: str) -> float | None:
    """Return the double that a text written as a number is, None for any other text, such as `007` and ` 5`."""
    return float(text) if len(text) <= LONGEST_NUMBER and _NUMBER.fullmatch(text) else None


def number_of(word: str) -> int | float:
    """Return a number of the query: whole where it is written so and a double holds it exactly."""
    whole = re.fullmatch(r"-?[0-9]+", word) is not None
    return int(word) if whole and abs(int(word)) <= EXACT else float(word)


def moment_of_text(text: str) -> date | datetime | None:
    """Return the date or the timestamp that a text is; None if it is neither, or one that does not exist."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    try:
        if found["time"] is None:
            return date.fromisoformat(text)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment.astimezone(UTC)  # not in the year 0 or 10000
    except (ValueError, OverflowError):
        return None
    return moment


def literal_moment(text: str) -> date | datetime:
    """Return the date or the timestamp that a query names.

    Raises:
        ValueError: it does not exist, or is so far away that some time zone has no such moment.
    """
    moment = moment_of_text(text)
    if moment is None or not 1 < moment.year < 9999:
        raise ValueError(f"`{text}` is not a valid date or time")
    return moment


def moment_text(moment: date | datetime) -> str:
    """Return a date or a timestamp as it is written in a query."""
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def path_of(text: str) -> Path:
    """Return the names of a path.

    Raises:
        ValueError: a name is empty, or the path begins with `$`.
    """
    names = tuple(re.sub(r"\\+\.", ".", name) for name in re.split(r"(?<!\\)\.", text))
    if not all(names):
        raise ValueError("a name in the path is empty" if text else "the path is empty")
    if names[0] == EACH:
        raise ValueError("`$` means the elements of a list and must follow the name of the list")
    return names


def path_text(path: Path) -> str:
    """Return a path as the text that `path_of` reads."""
    return ".".join(name.replace(".", "\\.") for name in path)


def unit_of(word: str) -> TimeUnit | None:
    """Return the unit of a word in the singular or the plural, in any case; None if it is none."""
    return next((unit for unit in TimeUnit if word.lower() in (unit.value, f"{unit.value}s")), None)


def duration_of(amount: str, unit: TimeUnit) -> Duration:
    """Return a length of time.

    Raises:
        ValueError: it has another amount than a whole number, or is longer than 1,000 years.
    """
    if not amount.isdecimal():
        raise ValueError(f"a duration needs a whole number and a unit, such as `36 hours`, not `{amount}`")
    duration = Duration(int(amount), unit)
    if seconds_about(duration) > LONGEST_DURATION:
        raise ValueError("a duration must be at most 1,000 years")
    return duration


def seconds_about(duration: Duration) -> int:
    """Return how many seconds a length of time has, a month taken as 30 days."""
    return duration.amount * _SECONDS[duration.unit]


def duration_text(duration: Duration) -> str:
    """Return a length of time as it is written in a query."""
    return f"{duration.amount} {duration.unit.value}{'' if duration.amount == 1 else 's'}"


MOST_REPETITIONS = 255
DEEPEST_GROUP = 50

_PIECE = re.compile(
    r"(?P<escape>\\.?)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\]?)|(?P<special>\(\?(?!:))|(?P<open>\((?:\?:)?)|(?P<close>\))"
    r"|(?P<repeat>(?:[*+?]|\{[^}]*\}?)\??)|(?P<anchor>[$^])|(?P<plain>.)",
    re.DOTALL,
)
_SAFE_ESCAPE = re.compile(r"\\[dDwWsSbBnrtfv -/:-@\[-`{-~]")  # letters that mean the same, and ASCII signs
_COUNTED = re.compile(r"\{([0-9]{1,3})(?:,([0-9]{1,3})?)?\}\??")
_SPECIAL = (
    ("(?=", "a lookahead"),
    ("(?!", "a lookahead"),
    ("(?<=", "a lookbehind"),
    ("(?<!", "a lookbehind"),
    ("(?P<", "a named group"),
    ("(?P=", "a backreference"),
    ("(?<", "a named group"),
)


def check_pattern(pattern: str) -> None:
    """Refuse a regular expression that some database would not read.

    Raises:
        ValueError: it is one; the sentence says why.
    """
    depth, before = 0, ""
    for found in _PIECE.finditer(pattern.removeprefix("(?i)")):
        kind, piece = found.lastgroup or "", found.group()
        if (what := _unsafe(kind, piece, before, found.string[found.start() :])) is not None:
            raise ValueError(f"the regular expression has {what}, which not every database supports")
        depth += (kind == "open") - (kind == "close")
        if depth > DEEPEST_GROUP:
            raise ValueError(f"the groups of a regular expression can be nested at most {DEEPEST_GROUP} deep")
        before = kind
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the regular expression is invalid: {error.msg}") from None


def _unsafe(kind: str, piece: str, before: str, rest: str) -> str | None:  # noqa: PLR0911 - one return for each kind of piece reads best
    match kind:
        case "special":
            return next((name for start, name in _SPECIAL if rest.startswith(start)), f"`{rest[:3]}` after its start")
        case "escape" if piece[1:].isdecimal() and piece != "\\0":
            return f"the backreference `{piece}`"
        case "escape" if len(piece) == 2 and not _SAFE_ESCAPE.fullmatch(piece):
            return f"the escape `{piece}`"
        case "repeat" if before in ("repeat", "anchor"):
            return f"`{piece}` after {'a repetition' if before == 'repeat' else '`^` or `$`'}"
        case "repeat" if piece[0] == "{":
            return _unsafe_count(piece)
        case "set":
            return _unsafe_set(piece)
        case _:
            return None


def _unsafe_count(piece: str) -> str | None:
    counted = _COUNTED.fullmatch(piece)
    if counted is None:
        return "a `{` without a repetition count (write `\\{` for the character)"
    if any(int(number) > MOST_REPETITIONS for number in counted.groups() if number):
        return f"more than {MOST_REPETITIONS} repetitions"
    return None


def _unsafe_set(piece: str) -> str | None:
    escapes = re.findall(r"\\.", piece, re.DOTALL)
    if wrong := [one for one in escapes if not _SAFE_ESCAPE.fullmatch(one) or one[1] in "DWSbB"]:
        return f"the escape `{wrong[0]}` inside brackets"
    if "[" in re.sub(r"\\.", "", piece[1:], flags=re.DOTALL):
        return "a `[` inside brackets (write `\\[` for the character)"
    if doubled := re.search(r"--|&&|~~|\|\|", piece):
        return f"`{doubled.group()}` inside brackets"
    return None
