"""Many runs in a row over a source that does as it likes: memberships, history and outbox never disagree."""

from __future__ import annotations

from random import Random

import pytest

from audience_sync.core.model import Counts, RunState
from tests.factories import company_identifiers
from tests.syncing import Syncing, adds_up, replayed

pytestmark = pytest.mark.slow_on_postgres

RUNS = 30
PEOPLE = [f"u{number}" for number in range(60)]
NOBODY = ("", "   ", "x" * 300)


def any_orders(random: Random) -> tuple[list[tuple[object, ...]], dict[str, str | None]]:
    """Return rows as a source may have them, and the members with identifiers that they mean."""
    companies = {key: random.choice(["c1", "c2", None]) for key in PEOPLE if random.random() < 0.5}
    rows: list[tuple[object, ...]] = list(companies.items())
    for key in random.sample(sorted(companies), min(len(companies), 3)):
        company = random.choice(["c1", "c2"])
        rows.append((key, company))
        known = companies[key]  # the row with more identifiers is used, then the smallest
        companies[key] = company if known is None else min(known, company)
    rows += [(random.choice(NOBODY), None) for _ in range(random.randrange(2))]
    random.shuffle(rows)
    return rows, {key: company_identifiers(company) for key, company in companies.items()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_any_history_is_consistent(syncing: Syncing, seed: int) -> None:
    """After each of thirty runs the memberships are the source's, the history leads to them, and all counts add up."""
    random = Random(seed)
    told: dict[str, tuple[str, str | None]] = {}
    generation = 0
    before: dict[str, str | None] = {}
    for _ in range(RUNS):
        rows, expected = any_orders(random)
        run = syncing.sync(rows, resync=random.random() < 0.05).run

        assert run.state is RunState.SUCCEEDED
        assert run.generation > generation
        assert adds_up(run.counts)
        assert run.members_before == len(before)
        assert len(before) + run.counts.entered - run.counts.exited == len(expected)
        assert syncing.members() == expected == replayed(syncing.database)
        if random.random() < 0.5:  # delivered by now, or not: a newer value then takes the place of the older
            told.update({key: (o.value, o.identifiers) for key, o in syncing.outbox().items()})
            syncing.clear_outbox()
        generation, before = run.generation, expected

    told.update({key: (o.value, o.identifiers) for key, o in syncing.outbox().items()})
    assert {key: identifiers for key, (value, identifiers) in told.items() if value == "true"} == before
    assert syncing.sync().run.counts.changed == 0


def test_counts_of_a_run_are_those_of_its_history(syncing: Syncing) -> None:
    """What `runs` says of a run is what `changes` has of it."""
    random = Random(7)
    for _ in range(5):
        syncing.sync(any_orders(random)[0])

    for run_id, entered, exited, updated in syncing.query("SELECT id, entered, exited, updated FROM sync_runs"):
        found = dict.fromkeys(("entered", "exited", "updated"), 0)
        found.update(
            {
                str(kind): int(str(count))
                for kind, count in syncing.query(
                    "SELECT kind, count(*) FROM membership_changes WHERE run_id = :r GROUP BY kind", r=run_id
                )
            }
        )
        assert found == {"entered": entered, "exited": exited, "updated": updated}
    assert syncing.run(1).counts != Counts()
