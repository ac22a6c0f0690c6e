"""Times of events: ISO 8601 of many forms and unix times of three units become one form."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone

import pytest

from audience_sync.core.model import Json
from audience_sync.segment.timestamps import to_utc
from tests.profile import amount

CASES = amount("AUDIENCE_SYNC_FUZZ_CASES", small=300, large=3000)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = datetime(1, 1, 3, tzinfo=UTC)
LAST = datetime(9999, 12, 29, tzinfo=UTC)

TEXTS = {
    "2026-03-01T10:00:00.000Z": "2026-03-01T10:00:00.000Z",
    "2026-03-01T10:00:00Z": "2026-03-01T10:00:00.000Z",
    "2026-03-01T10:00:00": "2026-03-01T10:00:00.000Z",
    "2026-03-01T10:00:00.5": "2026-03-01T10:00:00.500Z",
    "2026-03-01T10:00:00.5Z": "2026-03-01T10:00:00.500Z",
    "2026-03-01T10:00:00,25Z": "2026-03-01T10:00:00.250Z",
    "2026-03-01T10:00:00.999999999Z": "2026-03-01T10:00:00.999Z",
    "2026-03-01T10:00:00.678901+00:00": "2026-03-01T10:00:00.678Z",
    "2026-03-01T10:00:00+00:00": "2026-03-01T10:00:00.000Z",
    "2026-03-01T10:00:00-00:00": "2026-03-01T10:00:00.000Z",
    "2026-03-01T12:00:00+02:00": "2026-03-01T10:00:00.000Z",
    "2026-03-01T12:00:00+0200": "2026-03-01T10:00:00.000Z",
    "2026-03-01T12:00:00+02": "2026-03-01T10:00:00.000Z",
    "2026-02-28T23:30:00.123456-10:30": "2026-03-01T10:00:00.123Z",
    "2026-03-01t10:00:00z": "2026-03-01T10:00:00.000Z",
    "2026-03-01 10:00:00": "2026-03-01T10:00:00.000Z",
    " 2026-03-01T10:00:00Z\n": "2026-03-01T10:00:00.000Z",
    "2026-03-01T10:00Z": "2026-03-01T10:00:00.000Z",
    "2026-03-01T10Z": "2026-03-01T10:00:00.000Z",
    "20260301T100000Z": "2026-03-01T10:00:00.000Z",
    "20260301T100000.250+0000": "2026-03-01T10:00:00.250Z",
    "20260301100000": "2026-03-01T10:00:00.000Z",
    "2026-03-01": "2026-03-01T00:00:00.000Z",
    "20260301": "2026-03-01T00:00:00.000Z",
    "2026-W09-7": "2026-03-01T00:00:00.000Z",
    "2026W097T10": "2026-03-01T10:00:00.000Z",
    "2026-W09": "2026-02-23T00:00:00.000Z",
    "2026-02-28T24:00:00Z": "2026-03-01T00:00:00.000Z",
    "2026-02-28T24:00+01:00": "2026-02-28T23:00:00.000Z",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00.000Z",
    "9999-12-31T23:59:59.999Z": "9999-12-31T23:59:59.999Z",
}

UNIX: dict[Json, str] = {
    0: "1970-01-01T00:00:00.000Z",
    -1: "1969-12-31T23:59:59.000Z",
    -0.0005: "1969-12-31T23:59:59.999Z",
    1772359200: "2026-03-01T10:00:00.000Z",
    8640552856.345: "2243-10-23T09:34:16.345Z",
    1772359200.25: "2026-03-01T10:00:00.250Z",
    1772359200250: "2026-03-01T10:00:00.250Z",
    1772359200250.75: "2026-03-01T10:00:00.250Z",
    1772359200250999: "2026-03-01T10:00:00.250Z",
    -1772359200250: "1913-11-02T13:59:59.750Z",
    "1772359200": "2026-03-01T10:00:00.000Z",
    "8640552856.345": "2243-10-23T09:34:16.345Z",
    "1772359200.25": "2026-03-01T10:00:00.250Z",
    "1772359200250": "2026-03-01T10:00:00.250Z",
    "1772359200250999": "2026-03-01T10:00:00.250Z",
    "-1772359200": "1913-11-02T14:00:00.000Z",
    99_999_999_999: "5138-11-16T09:46:39.000Z",
    100_000_000_000: "1973-03-03T09:46:40.000Z",
    99_999_999_999_999: "5138-11-16T09:46:39.999Z",
    100_000_000_000_000: "1973-03-03T09:46:40.000Z",
    253_402_300_799_999_999: "9999-12-31T23:59:59.999Z",
}

NONSENSE: list[Json] = [
    None,
    True,
    False,
    "",
    " ",
    "now",
    "Sun, 01 Mar 2026 10:00:00 GMT",
    "2026-02-29",
    "2026-13-01T10:00:00Z",
    "2026-03-01T25:00:00Z",
    "2026-03-01T24:00:01Z",
    "2026-03-01T10:00:00.Z",
    "2026-03-01T10:00:00.1234567x9Z",
    "2026-03-01T10:00:00.678901T+00:00",
    "2026-03-01T10:00:00ZZ",
    "2026-03-01T10:0Z",
    "2026-03-01T10:00:",
    "2026-03-01T10:00:00+25:00",
    "2026-03-01+02:00",
    "2026-03-01x10:00:00",
    "99999999",
    "20260301250000",
    "٢٠٢٦-٠٣-٠١",
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:59-01:00",
    "9999-12-31T24:00:00Z",
    "+012026-03-01T10:00:00Z",
    "1e9",
    "1_000",
    "NaN",
    "1" * 5000,
    10**18,
    -(10**18),
    10**400,
    1e300,
    float("nan"),
    float("inf"),
    [],
    ["2026-03-01"],
    {},
]


@pytest.mark.parametrize(("text", "utc"), TEXTS.items(), ids=TEXTS)
def test_a_text(text: str, utc: str) -> None:
    """Every form of ISO 8601 that programs write is read, and means UTC if it has no zone."""
    assert utc == to_utc(text)


@pytest.mark.parametrize(("value", "utc"), UNIX.items(), ids=map(repr, UNIX))
def test_a_unix_time(value: Json, utc: str) -> None:
    """Seconds, milliseconds and microseconds are told apart by size, as numbers and as text, before 1970 too."""
    assert utc == to_utc(value)


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:40])
def test_what_is_no_time(value: Json) -> None:
    """What is no time, or one that has no four digits for its year, is refused and never raises."""
    assert to_utc(value) is None


def test_one_is_not_true() -> None:
    """A boolean is no time, although Python takes it for a number that was asked for before."""
    assert (to_utc(1), to_utc(True)) == ("1970-01-01T00:00:01.000Z", None)


@pytest.mark.generated
def test_any_form_of_any_instant() -> None:
    """However an instant is written, it is the same instant, cut to milliseconds."""
    chance = random.Random(1)
    span = (LAST - FIRST) // timedelta(microseconds=1)
    for _ in range(CASES):
        moment = FIRST + timedelta(microseconds=chance.randrange(span))
        zone = timezone(timedelta(minutes=chance.randint(-14 * 60, 14 * 60)))
        local = moment.astimezone(zone).isoformat(timespec="microseconds")
        forms = [local, local.replace("T", " "), local[:-3] + local[-2:], moment.isoformat().replace("+00:00", "Z")]
        form = chance.choice(forms)
        expected = moment.isoformat(timespec="milliseconds")[:23] + "Z"

        assert expected == to_utc(form), form
        assert expected == to_utc(expected)


@pytest.mark.generated
def test_any_unit_of_any_instant() -> None:
    """An instant from 1974 on is the same in seconds, milliseconds, microseconds, and in digits as text."""
    chance = random.Random(2)
    for _ in range(CASES):
        milliseconds = chance.randrange(126_230_400_000, 10**13)
        expected = (EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds")[:23] + "Z"
        value = chance.choice([milliseconds, milliseconds / 1000, milliseconds * 1000 + chance.randrange(1000)])

        assert expected == to_utc(value), value
        assert expected == to_utc(str(value)), value


@pytest.mark.generated
def test_damaged_text_never_raises() -> None:
    """A damaged time is refused, or is a whole time: nothing half read comes out."""
    chance = random.Random(3)
    for _ in range(CASES):
        letters = list(chance.choice(list(TEXTS)))
        for _ in range(chance.randint(1, 3)):
            letters[chance.randrange(len(letters))] = chance.choice("0123456789Z+-:.,TtzW x\x00\ud800٣")
        utc = to_utc("".join(letters))

        assert utc is None or utc == to_utc(utc)
        assert utc is None or (len(utc), utc[10], utc[23]) == (24, "T", "Z")
