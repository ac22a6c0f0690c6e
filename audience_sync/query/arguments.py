"""What stands in the parentheses of a call, with its inner expressions checked, read as what the call takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from audience_sync.query.chains import Call, Span, StartOf
from audience_sync.query.mistakes import nearest, refusal, shown
from audience_sync.query.names import wrong_argument
from audience_sync.query.tree import Condition, Literal, Path, Scalar, Stream
from audience_sync.query.vocabulary import Duration, Form
from audience_sync.query.words import path_of

Built: TypeAlias = Stream | Scalar | Condition
"""What an expression of a query is."""

_LABELS = {
    "property": "parent",
    "context": "parent",
    "within": "parent",
    "between": "parent",
    "sources": "exclude",
}
_FORMS = {
    "min": (Form.NUMBER, Form.STRING),
    "max": (Form.NUMBER, Form.STRING),
    "mode": (Form.NUMBER, Form.STRING, Form.ARRAY),
}


@dataclass(frozen=True, slots=True)
class Given:
    """An argument whose expression is checked."""

    value: Built | Span | StartOf | tuple[Given, ...]
    at: int  # of what a sentence about it points at
    label: str | None = None
    form: str | None = None


def check_shape(call: Call, given: Sequence[Given]) -> None:
    """Refuse braces, labels and types that the call does not know.

    Raises:
        QueryError: it has one.
    """
    if call.braces and call.name not in ("where", "sources"):
        raise refusal(call.at, f"`{call.name}` has no braces: only `where` and `sources` may have them")
    for place, one in enumerate(given):
        if one.label is not None and one.label != (_LABELS.get(call.name) if place == 0 else None):
            raise refusal(one.at, _wrong_label(call, one.label, place))
        if one.form is not None and (call.name not in _FORMS or place):
            raise refusal(one.at, f"`as` belongs to the property of `min`, `max` and `mode`, not to `{call.name}`")


def no_argument(call: Call, given: Sequence[Given]) -> None:
    """Refuse any argument.

    Raises:
        QueryError: there is one.
    """
    if given:
        raise wrong_argument(call, given[0].at)


def one_argument(call: Call, given: Sequence[Given]) -> Given:
    """Return the only argument.

    Raises:
        QueryError: there are none or more.
    """
    if len(given) != 1:
        raise wrong_argument(call, given[1].at if given else None)
    return given[0]


def one_or_more(call: Call, given: Sequence[Given]) -> list[Given]:
    """Return the arguments, which may stand in brackets.

    Raises:
        QueryError: there is none.
    """
    if len(given) == 1 and isinstance(given[0].value, tuple):
        return list(given[0].value)
    if not given:
        raise wrong_argument(call)
    return list(given)


def text(call: Call, given: Given) -> str:
    """Return the text that an argument is.

    Raises:
        QueryError: it is something else.
    """
    match given.value:
        case Literal(str() as value):
            return value
        case _:
            raise wrong_argument(call, given.at)


def path(call: Call, given: Given) -> Path:
    """Return the path that an argument is.

    Raises:
        QueryError: it is no text, or a text that is no path.
    """
    try:
        return path_of(text(call, given))
    except ValueError as error:
        raise refusal(given.at, str(error)) from None


def literal(call: Call, given: Given) -> Literal:
    """Return the text, number, date or truth value that an argument is.

    Raises:
        QueryError: it is something else.
    """
    match given.value:
        case Literal() as value:
            return value
        case _:
            raise wrong_argument(call, given.at)


def duration(call: Call, given: Given, least: int = 1) -> Duration:
    """Return the length of time that an argument is, with at least so many units.

    Raises:
        QueryError: it is something else, or shorter.
    """
    match given.value:
        case Span(length) if length.amount >= least:
            return length
        case Span(length):
            raise refusal(given.at, f"`{call.name}` needs at least 1 {length.unit.value}")
        case Literal(int()):
            raise refusal(given.at, f"the unit is missing: `{call.name}` takes {_duration_example(call)}")
        case _:
            raise wrong_argument(call, given.at)


def form(call: Call, given: Given) -> Form | None:
    """Return the type that an argument is taken `as`, None if it does not say.

    Raises:
        QueryError: there is no such type, or the call does not know it.
    """
    if given.form is None:
        return None
    known = _FORMS[call.name]
    if given.form.lower() not in known:
        names = " or ".join(f"`{one}`" for one in known) if len(known) == 2 else "`number`, `string` or `array`"
        raise refusal(given.at, f"`{call.name}` takes a property as {names}, not as {shown(given.form)}")
    return Form(given.form.lower())


def _wrong_label(call: Call, label: str, place: int) -> str:
    known = _LABELS.get(call.name)
    if known is None:
        return f"`{call.name}` has no {shown(label + ':')}"
    if place and label == known:
        return f"`{known}:` stands before the first argument of `{call.name}`"
    near = nearest(label, [known])
    return f"`{call.name}` has no {shown(label + ':')}; " + (
        f"did you mean `{known}:`?" if near else f"it knows only `{known}:`"
    )


def _duration_example(call: Call) -> str:
    return "lengths of time such as `7 days`" if call.name == "between" else "a length of time such as `7 days`"
