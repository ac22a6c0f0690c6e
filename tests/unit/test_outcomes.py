"""What every answer of Schematic means, line by line of the table, and how long to wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.destinations.outcomes import (
    LONGEST_ASKED,
    BatchAccepted,
    BatchRejected,
    BatchTooLarge,
    HttpAnswer,
    Outcome,
    RefusedKey,
    RetryLater,
    WrongDestination,
    backoff,
    describe,
    retry_after,
)
from audience_sync.destinations.schematic.schematic_outcomes import classify
from tests.factories import NOON

HTML = "\n <!DOCTYPE html><title>404</title>"
JSON = '{"error":"bad event"}'
MINUTES = timedelta(minutes=15)


def outcome(status: int, text: str = JSON, **headers: str) -> Outcome:
    """Return what an answer means; `retry_after="5"` is the header ``retry-after``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return classify(HttpAnswer(status, named, text), now=NOON)


@pytest.fixture
def local_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine live nine hours from Greenwich."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest.mark.parametrize("text", ["", "{}", JSON, HTML, '{"error":"batch too large","max_size":1}'])
def test_every_2xx_is_accepted(status: int, text: str) -> None:
    """Schematic's yes is its status; its body has no form to rely on."""
    assert outcome(status, text) == BatchAccepted(status)


@pytest.mark.parametrize("status", [0, 100, 408, 423, 425, 429, 500, 502, 503, 504, 520, 599])
@pytest.mark.parametrize("text", ["", JSON, HTML])
def test_not_now_is_later(status: int, text: str) -> None:
    """An outage, a limit or a lost answer keeps everything for another try."""
    found = outcome(status, text)

    assert isinstance(found, RetryLater)
    assert (found.status, found.retry_after) == (status, None)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("text", ["", JSON, HTML])
def test_a_refused_key_stops_everything(status: int, text: str) -> None:
    """A rotated key loses nothing."""
    assert isinstance(outcome(status, text), RefusedKey)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 404, 405, 501])
@pytest.mark.parametrize("text", ["", JSON, HTML])
def test_what_is_not_schematic_stops_everything(status: int, text: str) -> None:
    """A wrong address is no fault of the events."""
    assert isinstance(outcome(status, text), WrongDestination)


@pytest.mark.parametrize("status", [400, 402, 407, 409, 410, 418, 422, 451])
def test_a_refusal_in_html_is_not_schematic(status: int) -> None:
    """A proxy or a login page in between is no judgement of the events."""
    assert isinstance(outcome(status, HTML), WrongDestination)
    assert isinstance(outcome(status, "", content_type="text/html; charset=utf-8"), WrongDestination)


@pytest.mark.parametrize("status", [400, 402, 409, 410, 418, 422, 451])
@pytest.mark.parametrize("text", ["", "no", JSON])
def test_other_refusals_are_of_the_events(status: int, text: str) -> None:
    """Only a clear refusal by Schematic itself is held against an event."""
    assert isinstance(outcome(status, text), BatchRejected)


@pytest.mark.parametrize(
    ("status", "text", "max_size"),
    [
        (413, "", None),
        (413, HTML, None),
        (413, '{"max_size":7}', 7),
        (400, '{"error":"batch too large","max_size":50}', 50),
        (400, '{"error":"batch too large"}', None),
        (400, "batch too large", None),
        (413, '{"max_size":0}', None),
        (413, '{"max_size":-1}', None),
        (413, '{"max_size":"50"}', None),
        (413, '{"max_size":50.5}', None),
        (413, '{"max_size":null}', None),
        (413, "[50]", None),
        (413, "50", None),
        (413, '"max_size"', None),
        (413, '{"max_size":', None),
        (413, '{"max_size":1' + "0" * 40 + "}", None),
        (413, '{"max_size":true}', None),
    ],
)
def test_a_batch_that_is_too_large(status: int, text: str, max_size: int | None) -> None:
    """A batch is cut to the size that is allowed where that can be read, and halved otherwise."""
    found = outcome(status, text)

    assert found == BatchTooLarge(max_size)
    assert not isinstance(max_size, bool)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("Tue, 31 Mar 2026 12:00:30 GMT", 30),
        ("Tue, 31 Mar 2026 11:00:00 GMT", 0),
        ("Tue, 31 Mar 2026 14:01:00 +0200", 60),
    ],
)
def test_a_wait_that_is_asked_for(status: int, header: str, seconds: float) -> None:
    """A Retry-After is understood in seconds and as a date; a date that is over asks for no wait."""
    found = outcome(status, retry_after=header)

    assert isinstance(found, RetryLater)
    assert found.retry_after == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "header", ["", "-5", "soon", "1e3", "inf", "nan", "0x10", "12, 13", "1" * 30, "Mon, 99 Xxx 2020"]
)
def test_a_wait_that_cannot_be_read_is_none(header: str) -> None:
    """Nonsense in a header costs no event and no worker."""
    found = outcome(503, retry_after=header)

    assert isinstance(found, RetryLater)
    assert found.retry_after is None


def test_a_date_beyond_all_dates_is_no_wait() -> None:
    """A year that no calendar has is nonsense like any other; the last instant of all is only far away."""
    assert retry_after("Sun, 06 Nov 99999999999999 08:49:37 GMT", now=NOON) is None
    assert backoff(1, jitter=0, longest=MINUTES, asked=retry_after("Fri, 31 Dec 9999 23:59:59 -2359", now=NOON)) == (
        LONGEST_ASKED
    )


@pytest.mark.usefixtures("local_time")
@pytest.mark.parametrize("header", ["Tue Mar 31 12:00:30 2026", "Tue, 31 Mar 2026 12:00:30 -0000"])
def test_a_date_without_a_zone_is_in_utc(header: str) -> None:
    """HTTP dates are GMT, also in the old form that names no zone, wherever this machine is."""
    assert retry_after(header, now=NOON) == timedelta(seconds=30)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (HttpAnswer(0, {}, "timed out"), "timed out"),
        (HttpAnswer(503, {}, ""), "HTTP 503"),
        (HttpAnswer(404, {"content-type": "text/html"}, HTML), "HTTP 404: an HTML page"),
        (HttpAnswer(400, {}, '{"error":"no\\n such  key"}'), "HTTP 400: no such key"),
        (HttpAnswer(400, {}, '{"error":{"code":1}}'), 'HTTP 400: {"error":{"code":1}}'),
        (HttpAnswer(302, {"location": "https://login.example"}, ""), "HTTP 302 to https://login.example"),
        (HttpAnswer(400, {}, '{"error":"bad a\\u0000b \\u001b[2J"}'), "HTTP 400: bad a�b �[2J"),
        (HttpAnswer(400, {}, "x" * 1000), "HTTP 400: " + "x" * 200),
    ],
)
def test_an_answer_in_one_line(answer: HttpAnswer, line: str) -> None:
    """A person reads what answered and what it said, on one short line."""
    assert describe(answer) == line


@given(
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.timedeltas(timedelta(milliseconds=1), timedelta(days=7)),
)
def test_waiting_grows_up_to_the_longest(tries: int, jitter: float, longest: timedelta) -> None:
    """Tries thin out, never stop, never come at once and never wait longer than the limit."""
    now, then = (backoff(n, jitter=jitter, longest=longest) for n in (tries, tries + 1))

    assert timedelta(0) < now <= then <= longest


def test_a_date_is_of_the_clock_of_the_server() -> None:
    """A server whose clock differs from ours asks for as long a wait as it means."""
    headers = {"date": "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sun, 06 Nov 1994 08:50:07 GMT"}

    for date, waits in ((headers["date"], 30), ("yesterday", 0)):
        later = classify(HttpAnswer(429, {**headers, "date": date}, ""), now=NOON)
        assert isinstance(later, RetryLater)
        assert later.retry_after == timedelta(seconds=waits)


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True), st.timedeltas(timedelta(0), timedelta(days=400)))
def test_what_the_server_asks_for_is_waited(tries: int, jitter: float, asked: timedelta) -> None:
    """Retry-After is honoured beyond our own limit, up to a day."""
    wait = backoff(tries, jitter=jitter, longest=MINUTES, asked=asked)

    assert wait >= min(asked, LONGEST_ASKED)
    assert wait == max(backoff(tries, jitter=jitter, longest=MINUTES), min(asked, LONGEST_ASKED))


def test_waiting_without_jitter() -> None:
    """The first waits are one, two and four seconds."""
    assert [backoff(n, jitter=0, longest=MINUTES).total_seconds() for n in (1, 2, 3, 11)] == [1, 2, 4, 900]
    assert backoff(1, jitter=0.5, longest=MINUTES) == timedelta(seconds=0.75)
