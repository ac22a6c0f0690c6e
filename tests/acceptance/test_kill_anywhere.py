"""Commands killed, as by `kill -9`, at instants drawn by lot: run again, they end as if nobody had disturbed them.

Each database lives through three lives. At every step of a life the next command is killed in copies of the place, once
in each, and run again there, where it may be killed again; then the copies must be like the place in which nobody was.
AUDIENCE_SYNC_KILLS sets the number of kills on each database, by default one at each step. AUDIENCE_SYNC_KILL_SEED is
the seed of the instants. A test prints its seed, and the instants at which it killed a command; AUDIENCE_SYNC_KILLED,
set to such a line, kills this step at these instants, and no other step.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.running import KILLED, Customers, Place, customers, open_place
from tests.factories import AUDIENCE_KEY
from tests.killing import Ended, Kill, Reached, draw, perform
from tests.support.faulty_sandbox import FaultRule
from tests.twins import contradictions, copy_of, forwarded, known, leftovers, settled, told, values

pytestmark = pytest.mark.slow
REPEATED, _, INSTANTS = os.environ.get("AUDIENCE_SYNC_KILLED", "").partition("=")
SEED = int(os.environ.get("AUDIENCE_SYNC_KILL_SEED", "20260331"))
AGAIN = 0.3  # how probable it is that the next try is killed too
DRAWS = 50  # a kill that comes after the end is no kill; so many in a row are an error

TRAIT_KEY = "total_spend"
MORE = """
batch_size = 6
concurrency = 2
[[traits]]
name = "Total Spend"
source = "shop"
sql = "SELECT customer AS user_id, total AS value FROM spending"
"""
GUARD = {"min_members": 10}
FIRST_EVENTS, MORE_EVENTS, LAST_EVENTS = "first.ndjson", "more.ndjson", "last.ndjson"

BEFORE = customers(range(60))
AFTER = {**customers(range(10, 60)), **customers(range(30, 45), company="globex"), **customers(range(60, 75))}
HALF = customers(range(0, 60, 2))
SPENT_BEFORE = {user: n % 7 for n, user in enumerate(customers(range(30, 80)))}
SPENT_AFTER = {user: n % 5 for n, user in enumerate(customers(range(38, 88)))}
SPENT_HALF = dict.fromkeys(list(SPENT_BEFORE)[::2], 8)


def stock(place: Place, orders: Customers, spent: dict[str, int]) -> None:
    """Put orders and spending into the shop."""
    place.shop.set_orders(orders.items())
    rows = ", ".join(f"('{user}', {total})" for user, total in spent.items())
    place.shop.execute("CREATE TABLE IF NOT EXISTS spending (customer, total)")
    place.shop.execute("DELETE FROM spending")
    place.shop.execute(f"INSERT INTO spending VALUES {rows}")


def write_events(place: Place, name: str) -> None:
    """Write a file of events: of each of 20 people, who are members too, four in a row, and some that send nothing."""
    at = "2026-01-02T03:04:05Z"
    lines: list[dict[str, object]] = []
    for step in range(4):
        for user in customers(range(20)):
            about: dict[str, object] = {"userId": user, "messageId": f"{name} {user} {step}", "timestamp": at}
            if step % 2:
                lines.append({**about, "type": "track", "event": f"Stepped {step}"})
            else:
                lines.append({**about, "type": "identify", "traits": {"step": step}})
    lines += [{"type": "page", "userId": user, "name": name} for user in customers(range(10))]
    (place.folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def run(place: Place, *words: str, kill: Kill | None = None, trail: list[Reached] | None = None) -> Ended:
    """Run a command at a place; a word that is a file there is its path."""
    environment = {**os.environ, "SCHEMATIC_API_KEY": place.key}
    there = [str(place.folder / word) if word.endswith(".ndjson") else word for word in words]
    return perform(there, environment, folder=place.folder, kill=kill, trail=trail)


def do(place: Place, *words: str, code: int = 0) -> None:
    """Run a command that nobody disturbs."""
    ended = run(place, *words)
    assert ended.code == code, ended.said


def nothing(place: Place) -> None:
    """Do nothing."""


def full_shop(place: Place) -> None:
    """Let the shop have customers."""
    stock(place, BEFORE, SPENT_BEFORE)


def changed_shop(place: Place) -> None:
    """Let people come, go and change."""
    stock(place, AFTER, SPENT_AFTER)


def blocked(place: Place) -> None:
    """Sync a full shop, let half of the people disappear, and have the guards block runs 3 and 4."""
    full_shop(place)
    do(place, "sync")
    stock(place, HALF, SPENT_HALF)
    do(place, "sync", code=4)


def waiting(place: Place) -> None:
    """Have changes and events wait for their delivery."""
    full_shop(place)
    do(place, "sync", "--no-deliver")
    write_events(place, FIRST_EVENTS)
    do(place, "forward", FIRST_EVENTS, "--no-deliver")


def more_events(place: Place) -> None:
    """Have a file of events that is still to be forwarded."""
    write_events(place, MORE_EVENTS)


def waiting_again(place: Place) -> None:
    """Have other changes and events wait."""
    changed_shop(place)
    do(place, "sync", "--no-deliver")
    write_events(place, LAST_EVENTS)
    do(place, "forward", LAST_EVENTS, "--no-deliver")


def overtaken(place: Place) -> None:
    """Have newer values come before anybody goes on with a delivery."""
    full_shop(place)
    do(place, "sync", "--no-deliver")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command that is killed, what happens before it, and what happens between the first kill and the next try."""

    words: tuple[str, ...]
    before: Callable[[Place], None] = nothing
    meanwhile: Callable[[Place], None] = nothing
    once: bool = True  # every event is accepted once; else a value may come again under another key, or be left out


LIVES: dict[str, dict[str, Step]] = {
    "syncs": {
        "initial": Step(words=("sync",), before=full_shop),
        "incremental": Step(words=("sync",), before=changed_shop),
        "resync": Step(words=("sync", "--resync"), before=full_shop, once=False),
        "retract": Step(words=("retract", AUDIENCE_KEY, "--yes")),
    },
    "plans": {
        "approve": Step(words=("approve", "3"), before=blocked),
        "approve-trait": Step(words=("approve", "4")),
        "retract-trait": Step(words=("retract", TRAIT_KEY, "--yes")),
    },
    "deliveries": {
        "deliver": Step(words=("deliver",), before=waiting),
        "forward": Step(words=("forward", MORE_EVENTS), before=more_events),
        "overtaken": Step(words=("deliver",), before=waiting_again, meanwhile=overtaken, once=False),
    },
}
STEPS = sum(map(len, LIVES.values()))
KILLS = int(os.environ.get("AUDIENCE_SYNC_KILLS", str(STEPS)))
EACH = max(1, -(-KILLS // STEPS))  # kills at each step


@contextmanager
def another(origin: Place, folder: Path) -> Iterator[Place]:
    """Open a copy of a place, to work in."""
    with copy_of(origin, folder) as place:
        open_for_work(place)
        yield place


def open_for_work(place: Place) -> None:
    """Write the configuration of a place; its sandbox takes a moment for some of the requests."""
    place.configure(more=MORE, guard=GUARD)
    place.sandbox.faults.set([FaultRule(delay=0.02, rate=0.3)])


def undisturbed(place: Place, step: Step) -> list[Reached]:
    """Do the work of a step, and return the trail that it left."""
    trail: list[Reached] = []
    ended = run(place, *step.words, trail=trail)
    assert ended.code == 0, ended.said
    if step.meanwhile is not nothing:
        step.meanwhile(place)
        do(place, *step.words)
    return trail


def drawn(dice: random.Random, trail: Sequence[Reached]) -> Iterator[Kill]:
    """Draw when the first try is killed, and those after it if they are."""
    yield draw(dice, trail)
    while dice.random() < AGAIN:
        yield draw(dice, trail)


def disturbed(place: Place, step: Step, kills: Iterable[Kill]) -> list[str]:
    """Do the work of a step, killed now and again, and return when; never if the first kill came too late."""
    came: list[str] = []
    for kill in kills:
        ended = run(place, *step.words, kill=kill)
        assert ended.code in {0, KILLED}, f"{kill} after {came}: {ended.said}"
        if ended.code == 0:
            return came
        came.append(str(kill))
        if len(came) == 1:
            step.meanwhile(place)
    do(place, *step.words)
    return came


def is_sequel(some: Iterable[object], of: Iterable[object]) -> bool:
    """Tell whether some values are among others, in the same order."""
    left = iter(of)
    return all(value in left for value in some)


def assert_same(place: Place, twin: Place, *, once: bool) -> None:
    """Assert that a place is as if nobody had been disturbed in it."""
    assert leftovers(place) == leftovers(twin)
    assert contradictions(place) == []
    assert known(place) == known(twin)
    assert forwarded(place) == forwarded(twin)
    if once:
        assert settled(place) == settled(twin)
        assert told(place) == told(twin)
        return
    ours, theirs = values(place), values(twin)
    assert {of: seen[-1] for of, seen in ours.items()} == {of: seen[-1] for of, seen in theirs.items()}
    assert [of for of, seen in ours.items() if not is_sequel(seen, theirs[of])] == []


def compare(
    name: str, step: Step, origin: Place, twin: Place, *, trail: Sequence[Reached], dice: random.Random
) -> None:
    """Have a step killed in copies of a place until a kill comes in time, and compare what it leaves."""
    for _ in range(DRAWS):
        kills = drawn(dice, trail) if not REPEATED else map(Kill.of, INSTANTS.split(","))
        with another(origin, origin.folder.with_name(uuid4().hex)) as place:
            if came := disturbed(place, step, kills):
                print(f"AUDIENCE_SYNC_KILLED='{name}={','.join(came)}'")
                assert_same(place, twin, once=step.once)
                return
    pytest.fail("every kill came too late")


@pytest.mark.timeout(180 + 120 * EACH)
@pytest.mark.parametrize("life", LIVES)
def test_killed_anywhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, database_url: str, life: str
) -> None:
    """Killed at any instant and run again, a command leaves what an undisturbed twin does: nothing lost or doubled."""
    folder, dice = tmp_path_factory.mktemp("copies"), random.Random(f"{SEED} {life} {database_url.partition(':')[0]}")
    print(f"AUDIENCE_SYNC_KILL_SEED={SEED}")
    with open_place(tmp_path, database_url) as twin:
        open_for_work(twin)
        for name, step in LIVES[life].items():
            step.before(twin)
            with another(twin, folder / uuid4().hex) as origin:
                trail = undisturbed(twin, step)
                for _ in range(EACH if not REPEATED else name == REPEATED):
                    compare(name, step, origin, twin, trail=trail, dice=dice)

        assert leftovers(twin) == {}
