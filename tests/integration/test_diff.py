"""Every `DiffEngine` answers as plain dictionaries do, whatever the texts, the order and the amounts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol, TypeAlias

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audience_sync.core.keys import KeyColumns, canonical
from audience_sync.core.model import Change, ChangeKind, Counts, Member
from audience_sync.core.rows import Wrapping, from_line, to_line, wrapping
from audience_sync.store.memberships import Digest
from audience_sync.sync import duckdb_diff, duckdb_process
from audience_sync.sync.diff_engine import DiffEngine
from audience_sync.sync.duckdb_diff import DuckDbDiff
from audience_sync.tuning import DEFAULT_TUNING, Tuning
from tests.factories import make_change, make_member
from tests.profile import amount


class Engine(DiffEngine, Protocol):
    """A `DiffEngine` that can be loaded with members, too."""

    def add_members(self, members: Iterable[bytes]) -> None:
        """Add lines of members, whose identifiers are JSON, each text in UTF-8."""


Engines: TypeAlias = Callable[[Wrapping | None], AbstractContextManager[Engine]]


class Implementation(Protocol):
    """How an implementation of the protocol is opened."""

    def __call__(self, wrapping: Wrapping | None = None, *, tuning: Tuning = ...) -> AbstractContextManager[Engine]:
        """Return an engine for lines with this wrapping."""


Members: TypeAlias = dict[str, Member]

IMPLEMENTATIONS: list[tuple[str, Implementation]] = [
    ("Diff", DuckDbDiff),
]
SEQUENCES = amount("AUDIENCE_SYNC_DIFF_SEQUENCES", small=15, large=1000)
STEPS = 5  # comparisons in each of them
SMALL = replace(
    DEFAULT_TUNING, diff_lines_per_load=7, diff_rows_per_part=5, diff_hashes_per_part=4, diff_rows_per_page=3
)
FRUGAL = replace(DEFAULT_TUNING, diff_memory_mb=40)

COMPANY = wrapping(KeyColumns(0, (), (("groupId", 1),)))
QUOTED = wrapping(KeyColumns(0, (('it\'s a "né\\m" %s ?', 1),), ()))
WRAPPINGS = [None, COMPANY, QUOTED]


def no_line(line: str) -> None:
    """Refuse a duplicate."""
    raise AssertionError(line)


ODD = [
    "\ufeffa",
    "u1",
    "a",
    "A",
    "1",
    "01",
    "1.0",
    "-1",
    "1e3",
    "0x1F",
    "9223372036854775808",
    "NaN",
    "inf",
    "true",
    "2026-03-31",
    "NULL",
    "null",
    "None",
    "\\N",
    "\\",
    "\\\\",
    "\\n",
    "\\u0000",
    "'",
    "''",
    '"',
    '""',
    '"a"',
    "a'b",
    'a"b',
    '":"',
    '\\":\\"',
    "'; DROP TABLE now; --",
    "#",
    "# comment",
    ",",
    "a,b;c|d",
    " a",
    "a ",
    "  a  b  ",
    "\xa0a\xa0",
    "é",
    "e\u0301",
    "\u0301",
    "ß",
    "SS",
    "İ",
    "\u0085x",
    "a\u0085",
    "\u0080",
    "\u2028x",
    "a\u2029b",
    "\u200b",
    "\ufffd",
    "\uffff",
    "\U0010ffff",
    "🙂",
    "👩\u200d👩\u200d👧",
    "\u202eabc",
    '{"company":{"groupId":"c1"}}',
    '{"company":{"groupId":"',
    '"}}',
    "}}",
    "x" * 255,
    "x" * 254 + "y",
    "🙂" * 255,
    "\\" * 255,
    '"' * 255,
]
TEXTS = (
    st.sampled_from(ODD)
    | st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(0x20)), "\x7f"]),
        min_size=1,
        max_size=8,
    )
).filter(lambda text: not text.isspace())
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from([*ODD, "\t", "\n", "\r\n", "\0", "x" * 1022, "é" * 1022, "\\" * 511, '"' * 511])
)
VALUES = (
    (SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=3))
    .map(canonical)
    .filter(lambda value: len(value) <= 1024)
)


# --- the model --------------------------------------------------------------------------------------------------------


def differences(before: Members, now: Members, *, keep_missing: bool) -> list[Change]:
    """Return the changes that turn some members into others, by profile key."""
    changes = [
        Change(ChangeKind.UPDATED if key in before else ChangeKind.ENTERED, *member)
        for key, member in now.items()
        if before.get(key) != member
    ]
    if not keep_missing:
        changes += [Change(ChangeKind.EXITED, *member) for key, member in before.items() if key not in now]
    return sorted(changes, key=lambda change: change.profile_key.encode())


def applied(changes: Iterable[Change], before: Members) -> Members:
    """Return members as changes leave them, refusing changes that do not fit them."""
    members = dict(before)
    for kind, key, identifiers, value in changes:
        member = Member(key, identifiers, value)
        assert (key in members) == (kind is not ChangeKind.ENTERED)
        if kind is ChangeKind.EXITED:
            assert members.pop(key) == member
        else:
            assert members.get(key) != member
            members[key] = member
    return members


def counted(changes: Sequence[Change], now: Members) -> Counts:
    """Return how many changes there are of each kind, and how many members are as they were."""
    kinds = [change.kind for change in changes]
    entered, exited, updated = map(kinds.count, (ChangeKind.ENTERED, ChangeKind.EXITED, ChangeKind.UPDATED))
    return Counts(entered=entered, exited=exited, updated=updated, unchanged=len(now) - entered - updated)


def one_of_each(members: Iterable[Member]) -> tuple[Members, list[str]]:
    """Return the members that are kept, and the lines of the others."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.profile_key, []).append(member)
    kept = {
        key: min(group, key=lambda member: (-identifier_count(member), to_line(member)))
        for key, group in groups.items()
    }
    others: list[str] = []
    for key, group in groups.items():
        group.remove(kept[key])
        others += map(to_line, group)
    return kept, others


def identifier_count(member: Member) -> int:
    """Return how many identifiers a member has besides its key."""
    return sum(map(len, orjson.loads(member.identifiers or "{}").values()))


# --- lines ------------------------------------------------------------------------------------------------------------


def wrapped(text: str, around: Wrapping) -> str:
    """Return the JSON of a single identifier."""
    return f"{around.before}{canonical(text)[1:-1]}{around.after}"


def whole_line(line: str, around: Wrapping | None) -> str:
    """Return a line with the JSON around a bare identifier."""
    return to_line(from_line(line, around))


def bare_line(member: Member, around: Wrapping | None) -> str:
    """Return the line of a member as it is added: a plain single identifier stands there without its JSON."""
    if around is not None and member.value is None:
        if member.identifiers is None:
            return f"{member.profile_key}\t"
        found: dict[str, dict[str, str]] = orjson.loads(member.identifiers)
        texts = [text for keys in found.values() for text in keys.values()]
        if len(texts) == 1 and member.identifiers == wrapped(texts[0], around) and not set(texts[0]) & set('"\\'):
            return f"{member.profile_key}\t{texts[0]}"
    return to_line(member)


def divided(lines: Iterable[str], random: Random) -> Iterator[tuple[bytes, int]]:
    """Yield lines in any order and any division, as UTF-8 with their number."""
    left = list(lines)
    random.shuffle(left)
    most = random.choice([1, 3, 10, 1000])
    while left:
        size = random.randint(0, most)
        yield "".join(f"{line}\n" for line in left[:size]).encode(), size
        left = left[size:]


def add(engine: Engine, members: Iterable[Member], around: Wrapping | None, random: Random) -> None:
    """Add members to an engine as a source does."""
    for lines, rows in divided((bare_line(member, around) for member in members), random):
        engine.add(lines, rows)


def texts_of(members: Members, random: Random) -> list[bytes]:
    """Return members as they are kept, many lines in each text."""
    return [lines for lines, rows in divided(map(to_line, members.values()), random) if rows]


def digest_of(engines: Engines, around: Wrapping | None, members: Members) -> Digest:
    """Return the digest of members that are loaded from where they are kept."""
    with engines(around) as engine:
        engine.add_members(texts_of(members, Random(1)))
        return engine.digest()


def digest_of_lines(engines: Engines, lines: Iterable[str], around: Wrapping | None = None) -> Digest:
    """Return the digest of lines that are added one by one."""
    with engines(around) as engine:
        for line in lines:
            engine.add(f"{line}\n".encode(), 1)
        return engine.digest()


# --- what is generated ------------------------------------------------------------------------------------------------


class World(NamedTuple):
    """Members as they were and as they are, the form of their lines, and an order and division of these."""

    around: Wrapping | None
    before: Members
    now: Members
    random: Random


def members_of(around: Wrapping | None, keys: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Member]:
    """Return members without a wrapping: of several identifiers, with a computed value or not; or with one."""
    if around is not None:
        return st.builds(Member, keys, st.none() | TEXTS.map(lambda text: wrapped(text, around)), st.none())
    several = st.fixed_dictionaries(
        {},
        optional={
            "company": st.dictionaries(st.sampled_from(["groupId", "é'\"\\"]), TEXTS, min_size=1),
            "user": st.dictionaries(st.sampled_from(["email", "groupId"]), TEXTS, min_size=1),
        },
    ).map(lambda found: canonical(found) if found else None)
    return st.builds(Member, keys, several, st.none() | VALUES)


def keyed(members: Iterable[Member]) -> Members:
    """Return members by their keys."""
    return {member.profile_key: member for member in members}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw members before and now: 0 to 90 % of them have changed, or they are others altogether."""
    around = draw(st.sampled_from(WRAPPINGS))
    some = st.lists(members_of(around), max_size=30).map(keyed)
    before, percent = draw(some), draw(st.sampled_from([0, 5, 50, 90]))
    now = dict(before)
    for key in before:
        if draw(st.integers(0, 99)) < percent:
            fate = draw(st.none() | members_of(around))
            if fate is None:
                del now[key]
            else:
                now[key] = fate._replace(profile_key=key)
    if draw(st.booleans()):
        now |= draw(some)
    return World(around, before, now, Random(draw(st.integers(0, 2**32))))


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Wrapping | None, list[Member], Random]:
    """Draw members with few different keys; some members are wholly the same."""
    around = draw(st.sampled_from(WRAPPINGS))
    keys = st.sampled_from(draw(st.lists(TEXTS, min_size=1, max_size=4)))
    crowd = draw(st.lists(members_of(around, keys) | members_of(around), max_size=25))
    crowd += draw(st.lists(st.sampled_from(crowd), max_size=5)) if crowd else []
    return around, crowd, Random(draw(st.integers(0, 2**32)))


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[made for _, made in IMPLEMENTATIONS], ids=[name for name, _ in IMPLEMENTATIONS])
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation of the protocol."""
    made: Implementation = request.param
    return made


@pytest.fixture(scope="module")
def engines(implementation: Implementation) -> Engines:
    """Each implementation, to be opened with a wrapping."""
    return partial(implementation, tuning=DEFAULT_TUNING)


@pytest.fixture(scope="module", params=[DEFAULT_TUNING, SMALL], ids=["whole", "in-parts"])
def amounts(request: pytest.FixtureRequest) -> Tuning:
    """Few rows as such, and as if they were very many."""
    tuning: Tuning = request.param
    return tuning


@pytest.fixture(scope="module")
def in_amounts(implementation: Implementation, amounts: Tuning) -> Engines:
    """Each implementation, for few rows that it takes as such, or as if they were very many."""
    return partial(implementation, tuning=amounts)


@pytest.fixture(scope="module")
def frugal(implementation: Implementation) -> Engines:
    """Each implementation, with 40 MB."""
    return partial(implementation, tuning=FRUGAL)


# --- comparison -------------------------------------------------------------------------------------------------------


def check_comparison(engines: Engines, world: World, *, keep_missing: bool, known: Digest | None) -> Digest:
    """Compare, expect what the model says, and return the digest afterwards."""
    around, before, now, random = world
    with engines(around) as engine:
        add(engine, now.values(), around, random)
        counts = engine.compare(texts_of(before, random), known=known, keep_missing=keep_missing, left_out=no_line)
        changes = [change for page in engine.changes() for change in page]
        again = [change for page in engine.changes() for change in page]
        everybody = [whole_line(line, around) for page in engine.everybody() for line in page]
        digest = engine.digest()

    assert changes == differences(before, now, keep_missing=keep_missing)
    assert again == changes
    assert counts == counted(changes, now)
    assert applied(changes, before) == (before | now if keep_missing else now)
    assert everybody == [to_line(now[key]) for key in sorted(now, key=str.encode)]
    return digest


@given(world=worlds(), keep_missing=st.booleans(), is_known=st.booleans())
def test_changes_are_those_of_the_model(in_amounts: Engines, world: World, keep_missing: bool, is_known: bool) -> None:
    """The changes turn what was into what is, and the digest afterwards is that of all who are members then."""
    around, before, now, _ = world
    known = digest_of(in_amounts, around, before) if is_known else None

    digest = check_comparison(in_amounts, world, keep_missing=keep_missing, known=known)

    assert digest == digest_of(in_amounts, around, before | now if keep_missing else now)


@given(world=worlds(), keep_missing=st.booleans())
def test_a_digest_of_others_changes_nothing(in_amounts: Engines, world: World, keep_missing: bool) -> None:
    """A known digest that is not that of the members, or has another version, leads to the same changes."""
    around = world.around
    others = digest_of(in_amounts, around, {"someone else": make_member("someone else")})
    for known in (others, others._replace(version="another", total="")):
        check_comparison(in_amounts, world, keep_missing=keep_missing, known=known)


def test_each_kind_of_change(engines: Engines) -> None:
    """An entry, an exit and an update are different, and an exit keeps the identifiers that were seen last."""
    before = [make_member("gone", company="c1"), make_member("moved", company="c1"), make_member("stays")]

    with engines(COMPANY) as engine:
        engine.add(b"new\nstays\t\nmoved\tc2\n", 3)
        counts = engine.compare(
            ["\n".join([*map(to_line, before), ""]).encode()], known=None, keep_missing=False, left_out=no_line
        )
        changes = list(chain.from_iterable(engine.changes()))

    assert counts == Counts(entered=1, exited=1, updated=1, unchanged=1)
    assert changes == [
        make_change("gone", ChangeKind.EXITED, company="c1"),
        make_change("moved", ChangeKind.UPDATED, company="c2"),
        make_change("new", ChangeKind.ENTERED),
    ]


def test_nobody_compares_with_nobody(engines: Engines) -> None:
    """Without lines and members there are no changes, and the digest is that of an empty set."""
    with engines(None) as engine:
        empty = engine.digest()
        counts = engine.compare([], known=empty, keep_missing=False, left_out=no_line)

        assert counts == Counts()
        assert list(engine.changes()) == []
        assert list(engine.everybody()) == []
        assert engine.digest() == empty
        assert empty.members == 0


@pytest.mark.parametrize("around", WRAPPINGS, ids=["several", "company", "quoted"])
def test_each_odd_text_is_kept_as_it_is(engines: Engines, around: Wrapping | None) -> None:
    """Every odd text survives as a key and as an identifier, from the source as well as from the members."""
    other = COMPANY if around is None else around
    assert other is not None
    now = keyed(Member(key, wrapped(ODD[-place], other)) for place, key in enumerate(ODD))

    check_comparison(engines, World(around, now, now, Random(1)), keep_missing=False, known=None)
    check_comparison(engines, World(around, now, {}, Random(2)), keep_missing=False, known=None)
    check_comparison(engines, World(around, {}, now, Random(3)), keep_missing=False, known=None)


@pytest.mark.parametrize("around", [None, COMPANY], ids=["several", "company"])
def test_a_byte_order_mark_is_part_of_a_key(engines: Engines, around: Wrapping | None) -> None:
    """A key that begins with U+FEFF keeps it, even at the very beginning of the lines."""
    now = keyed([make_member("\ufeffu1", company="c1")])

    check_comparison(engines, World(around, now, now, Random(1)), keep_missing=False, known=None)


def test_identifiers_of_earlier_settings_are_other_ones(in_amounts: Engines) -> None:
    """Members whose identifiers have another form than the lines now are compared by their whole JSON."""
    earlier = ['{"company":{"groupId":"c1"},"user":{"email":"c1"}}', '{"user":{"groupId":"c1"}}', None]
    before = keyed(Member(f"u{n}", identifiers) for n, identifiers in enumerate(earlier))
    now = keyed(make_member(key, company="c1") for key in before)

    check_comparison(in_amounts, World(COMPANY, before, now, Random(1)), keep_missing=False, known=None)


# --- digests ----------------------------------------------------------------------------------------------------------


@given(worlds())
def test_equal_digests_are_of_equal_sets(in_amounts: Engines, world: World) -> None:
    """Order and division, and whether identifiers are bare, make no difference; the members do."""
    around, before, now, random = world
    with in_amounts(around) as first, in_amounts(around) as second:
        add(first, before.values(), around, random)
        add(second, now.values(), around, random)
        was, now_is = first.digest(), second.digest()

    assert was == digest_of(in_amounts, around, before)
    assert was.members == len(before)
    assert (was == now_is) == (before == now)


@pytest.mark.parametrize(
    ("lines", "others"),
    [
        (["a"], []),
        (["a"], ["b"]),
        (["a"], ["a", "a"]),
        (["a", "a", "b"], ["a", "b", "b"]),
        (["a"], ["a\tNULL"]),
        (["a"], ["a\t\\N"]),
        (["a\tNULL"], ["a\tnull"]),
        (["a\tNULL"], ["a\t\\N"]),
        (["a\tb"], ["b\ta"]),
        (["a\tx"], ["a\t\tx"]),
        (["a\tx\ty"], ["a\ty\tx"]),
        (["a\tx\ty"], ["x\ta\ty"]),
        (["a\tx\ty"], ["y\tx\ta"]),
        (["ab\tc"], ["a\tbc"]),
        (["a\tx", "b\ty"], ["a\ty", "b\tx"]),
        (["a\t\t1", "b\t\t2"], ["a\t\t2", "b\t\t1"]),
        (["a\t\t1"], ["a\t\t1.0"]),
        (["a "], ["a"]),
        (["é"], ["e\u0301"]),
        (["a"], ["A"]),
    ],
)
def test_other_lines_have_another_digest(engines: Engines, lines: list[str], others: list[str]) -> None:
    """Another key, identifier or value, a missing one instead of a text, or one in another column is another set."""
    assert digest_of_lines(engines, lines) != digest_of_lines(engines, others)


@pytest.mark.parametrize(
    ("line", "other"), [("a", "a\t"), ("a", "a\t\t"), ("a\tx", "a\tx\t"), ("a\t\t1", "a\t\t1")], ids=repr
)
def test_trailing_tabs_say_nothing(engines: Engines, line: str, other: str) -> None:
    """A missing identifier or value is missing with its tab or without."""
    assert digest_of_lines(engines, [line]) == digest_of_lines(engines, [other])


def test_another_wrapping_has_another_version(engines: Engines) -> None:
    """Digests of the same lines in another form do not compare."""
    digests = [digest_of_lines(engines, ["a"], around) for around in WRAPPINGS]

    assert len({digest.version for digest in digests}) == len(WRAPPINGS)
    assert [duckdb_diff.wrapping_of(digest.version) for digest in digests] == WRAPPINGS


def test_a_digest_follows_what_is_added(engines: Engines) -> None:
    """Lines that are added after a digest was made belong to the next one."""
    with engines(COMPANY) as engine:
        engine.add(b"a\tc1\n", 1)
        first = engine.digest()
        engine.add_members([b'b\t{"company":{"groupId":"c2"}}\n'])
        second = engine.digest()
        engine.add(b"c\t\n", 1)

        assert first == digest_of_lines(engines, ["a\tc1"], COMPANY)
        assert second == digest_of_lines(engines, ["b\tc2", "a\tc1"], COMPANY)
        assert engine.digest() == digest_of_lines(engines, ["c", "b\tc2", "a\tc1"], COMPANY)


# --- duplicates and lines ---------------------------------------------------------------------------------------------


@given(crowd=crowds(), before=st.lists(members_of(None, st.sampled_from(ODD)), max_size=5).map(keyed))
def test_one_line_of_each_profile_is_kept(
    in_amounts: Engines, crowd: tuple[Wrapping | None, list[Member], Random], before: Members
) -> None:
    """The line with most identifiers and then the smallest stays; each other one is passed on once."""
    around, members, random = crowd
    kept, others = one_of_each(members)
    left_out: list[str] = []
    with in_amounts(around) as engine:
        add(engine, members, around, random)
        engine.leave_out_duplicates(left_out.append)
        everybody = [whole_line(line, around) for page in engine.everybody() for line in page]
        digest = engine.digest()
        counts = engine.compare(texts_of(before, random), known=None, keep_missing=False, left_out=no_line)
        changes = list(chain.from_iterable(engine.changes()))

    assert sorted(left_out) == sorted(others)
    assert everybody == [to_line(kept[key]) for key in sorted(kept, key=str.encode)]
    assert digest == digest_of(in_amounts, around, kept)
    assert changes == differences(before, kept, keep_missing=False)
    assert counts == counted(changes, kept)


@given(crowd=crowds(), before=st.lists(members_of(None, st.sampled_from(ODD)), max_size=5).map(keyed))
def test_a_comparison_leaves_duplicates_out_itself(
    in_amounts: Engines, crowd: tuple[Wrapping | None, list[Member], Random], before: Members
) -> None:
    """Whoever compares need not have left them out, however they meet with the members."""
    around, members, random = crowd
    kept, others = one_of_each(members)
    for known in (dict(before), dict(list(kept.items())[:3]), {**before, **kept}, kept):
        left_out: list[str] = []
        with in_amounts(around) as engine:
            add(engine, members, around, random)
            texts = texts_of(known, random)
            counts = engine.compare(texts, known=None, keep_missing=False, left_out=left_out.append)
            changes = list(chain.from_iterable(engine.changes()))
            digest = engine.digest()

        assert sorted(left_out) == sorted(others)
        assert changes == differences(known, kept, keep_missing=False)
        assert counts == counted(changes, kept)
        assert digest == digest_of(in_amounts, around, kept)


@given(crowds())
def test_lines_of_a_profile_are_whole(in_amounts: Engines, crowd: tuple[Wrapping | None, list[Member], Random]) -> None:
    """All lines of one profile are found, with the JSON around bare identifiers, and none of somebody unknown."""
    around, members, random = crowd
    with in_amounts(around) as engine:
        add(engine, members, around, random)

        for key in {member.profile_key for member in members}:
            expected = [to_line(member) for member in members if member.profile_key == key]
            assert sorted(engine.lines_of(key)) == sorted(expected)
        assert engine.lines_of("nobody of this name") == []


@given(worlds())
def test_everybody_comes_by_profile_key(in_amounts: Engines, world: World) -> None:
    """All lines come in the order of the keys' bytes, with the JSON around bare identifiers."""
    with in_amounts(world.around) as engine:
        add(engine, world.now.values(), world.around, world.random)
        everybody = [whole_line(line, world.around) for page in engine.everybody() for line in page]

    assert everybody == [to_line(world.now[key]) for key in sorted(world.now, key=str.encode)]


# --- equal hashes of different rows -----------------------------------------------------------------------------------


@contextmanager
def colliding(hashed: str) -> Iterator[None]:
    """Have different rows get the same hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb_diff, "_HASH", hashed)
        yield


@pytest.mark.parametrize("hashed", ["hash(k) % 3", "hash(k)", "hash(i, v)", "0"])
@given(world=worlds(), keep_missing=st.booleans())
def test_a_known_digest_finds_what_equal_hashes_hide(
    amounts: Tuning, hashed: str, world: World, keep_missing: bool
) -> None:
    """With a known digest the changes are right although hashes of different rows are equal."""
    engines = partial(DuckDbDiff, tuning=amounts)
    with colliding(hashed):
        known = digest_of(engines, world.around, world.before)
        digest = check_comparison(engines, world, keep_missing=keep_missing, known=known)

        whole = world.before | world.now if keep_missing else world.now
        assert digest == digest_of(engines, world.around, whole)


def test_equal_hashes_hide_a_change_without_a_known_digest() -> None:
    """A change whose hash is that of the old row is not seen where no digest of the members is known."""
    with colliding("hash(k)"), DuckDbDiff() as engine:
        engine.add(b"u1\tx\n", 1)

        assert engine.compare([b"u1\ty\n"], known=None, keep_missing=False, left_out=no_line) == Counts(unchanged=1)


# --- sequences --------------------------------------------------------------------------------------------------------


def random_text(random: Random) -> str:
    """Return an odd or an ordinary text."""
    if random.random() < 0.3:
        return random.choice(ODD)
    return "".join(random.choices("ab1é🙂\\'\" \xa0\u2028", k=random.randint(1, 4))).strip() or "x"


def random_member(key: str, around: Wrapping | None, random: Random) -> Member:
    """Return a member, with a wrapping of one identifier at most."""
    if around is not None:
        return Member(key, None if random.random() < 0.2 else wrapped(random_text(random), around))
    names = random.sample(["groupId", "domain", "email"], random.randint(0, 3))
    identifiers = canonical({"company": {name: random_text(random) for name in names}}) if names else None
    value: Any = random.choice([None, random_text(random), random.randint(0, 3), [random_text(random)] * 3])
    return Member(key, identifiers, None if value is None else canonical(value))


def next_of(before: Members, around: Wrapping | None, random: Random) -> Members:
    """Return who is a member after a while: 0 to 90 % have changed, others are new."""
    portion = random.choice([0, 0.01, 0.1, 0.5, 0.9])
    now = {}
    for key, member in before.items():
        if random.random() >= portion:
            now[key] = member
        elif random.random() < 0.6:
            now[key] = random_member(key, around, random)
    for _ in range(random.choice([0, 1, 5, 60])):
        key = random_text(random)
        now[key] = random_member(key, around, random)
    return now


def check_step(engines: Engines, world: World, known: Digest | None, *, keep_missing: bool) -> Digest:
    """Sync some members as a run does, some of their lines twice, and return the digest afterwards."""
    around, before, now, random = world
    twice = random.sample(list(now.values()), random.choice([0, len(now) // 2]))
    poorer = [member._replace(identifiers=None) for member in now.values() if member.identifiers][: len(twice)]
    left_out: list[str] = []
    with engines(around) as engine:
        add(engine, [*now.values(), *twice, *poorer], around, random)
        engine.leave_out_duplicates(left_out.append)
        counts = engine.compare(texts_of(before, random), known=known, keep_missing=keep_missing, left_out=no_line)
        changes = list(chain.from_iterable(engine.changes()))
        digest = engine.digest()

    assert sorted(left_out) == sorted(map(to_line, [*twice, *poorer]))
    assert changes == differences(before, now, keep_missing=keep_missing)
    assert counts == counted(changes, now)
    return digest


@pytest.mark.generated
@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_digests_go_from_one_comparison_to_the_next(implementation: Implementation, seed: int) -> None:
    """In a sequence of comparisons the members follow, and the digest of each is what the next one knows."""
    engines = partial(implementation, tuning=SMALL if seed % 2 else DEFAULT_TUNING)
    random = Random(seed)
    around = random.choice(WRAPPINGS)
    members: Members = {}
    known: Digest | None = None
    for _ in range(STEPS):
        now = next_of(members, around, random)
        keep_missing = random.random() < 0.3
        known = check_step(engines, World(around, members, now, random), known, keep_missing=keep_missing)
        members = members | now if keep_missing else now

    assert known == digest_of(engines, around, members)


# --- large amounts ----------------------------------------------------------------------------------------------------

PEOPLE = 3_000_000
ROWS_AT_ONCE = 10_000


def memory_limit() -> str:
    """Return the memory limit of DuckDB in this process."""
    connection = duckdb_process.DiffConnection(FRUGAL)
    try:
        found: str = connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
        return found
    finally:
        connection.close()


def test_the_memory_limit_rises_for_long_values_and_falls_again() -> None:
    """A comparison that needs more than the limit ends right, and the next one begins with the limit."""
    before = memory_limit()
    with DuckDbDiff(None, tuning=FRUGAL) as engine:
        for n in range(60):
            engine.add(b'u%02d\t\t"%s"\n' % (n, b"x" * 1_000_000), 1)
        engine.leave_out_duplicates(no_line)
        kept = sum(map(len, engine.everybody()))
        raised = memory_limit()

    assert kept == 60
    assert raised != before
    assert memory_limit() == before


def in_texts(lines: Iterator[str]) -> Generator[tuple[bytes, int]]:
    """Yield many lines at a time as UTF-8, with their number."""
    while page := list(islice(lines, ROWS_AT_ONCE)):
        yield "".join(page).encode(), len(page)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_lines_of_one_key_fit_into_little_memory(frugal: Engines) -> None:
    """One line is kept of a key that comes again and again, and all others are passed on."""
    rows, left_out, sizes = 1_000_000, 0, 0

    def on_left_out(line: str) -> None:
        nonlocal left_out, sizes
        left_out += 1
        sizes += len(line)

    with frugal(COMPANY) as engine:
        for lines, count in in_texts(f"same\tc{n * 7_919 % rows:07}\n" for n in range(rows)):
            engine.add(lines, count)
        engine.add(b"another\t\n", 1)
        engine.leave_out_duplicates(on_left_out)
        everybody = [whole_line(line, COMPANY) for line in chain.from_iterable(engine.everybody())]

    kept = [to_line(make_member("another")), to_line(make_member("same", company="c0000000"))]
    assert everybody == kept
    assert (left_out, sizes) == (rows - 1, (rows - 1) * len(kept[1]))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
def test_millions_of_members_fit_into_little_memory(frugal: Engines, is_known: bool) -> None:
    """Of three million members and as many lines, each in another order, one percent has changed."""

    def members() -> Iterator[str]:
        for place in range(PEOPLE):
            n = place * 7_919 % PEOPLE
            yield f'u{n:07}\t{{"company":{{"groupId":"c{n % 50_000}"}}}}\n'

    def rows() -> Iterator[str]:
        for place in range(PEOPLE):
            n = place * 104_729 % PEOPLE
            fate = n // 100 % 3 if n % 100 == 0 else None
            yield f"u{n:07}{'x' * (fate == 0)}\tc{n % 50_000 if fate != 1 else 'x'}\n"

    def expected() -> Iterator[Change]:
        for n in range(0, PEOPLE, 100):
            key, company = f"u{n:07}", f"c{n % 50_000}"
            if n // 100 % 3 == 0:
                yield make_change(key, ChangeKind.EXITED, company=company)
                yield make_change(f"{key}x", ChangeKind.ENTERED, company=company)
            elif n // 100 % 3 == 1:
                yield make_change(key, ChangeKind.UPDATED, company="cx")

    known = None
    if is_known:
        with frugal(COMPANY) as engine:
            engine.add_members(text for text, _ in in_texts(members()))
            known = engine.digest()
    with frugal(COMPANY) as engine:
        for lines, count in in_texts(rows()):
            engine.add(lines, count)
        counts = engine.compare(
            (text for text, _ in in_texts(members())), known=known, keep_missing=False, left_out=no_line
        )
        found = chain.from_iterable(engine.changes())
        wrong = [pair for pair in zip_longest(found, expected()) if pair[0] != pair[1]]

    assert wrong == []
    third = PEOPLE // 300
    assert counts == Counts(entered=third, exited=third, updated=third, unchanged=PEOPLE - 2 * third)


def test_the_temporary_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote or a bracket in TMPDIR is part of a path, and of no statement."""
    folder = tmp_path / "o'b [1]*"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with DuckDbDiff() as engine:
        engine.add(b"u1\n", 1)

        assert list(engine.everybody()) == [["u1"]]
