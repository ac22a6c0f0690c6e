"""Two profiles that are one user in Schematic: in the end every member has the trait, and nobody else has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from audience_sync.cli import operate_commands
from audience_sync.config import Settings
from audience_sync.store import batches, erasure
from audience_sync.store.batches import Batch
from audience_sync.store.database import Database
from tests.commands import call
from tests.factories import make_event, make_open, take_batch
from tests.sending import Sending, open_sending, user_of
from tests.support.faulty_sandbox import FaultRule, FaultySandbox

MEMBERS = "SELECT customer_id AS user_id, company_id AS email FROM orders"
PEOPLE = [f"p{n}@example.com" for n in range(20)]


@pytest.fixture
def sending(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> Iterator[Sending]:
    """Yield audiences of people who are known by their userId and their e-mail address."""
    with open_sending(
        tmp_path,
        database,
        sandbox,
        audiences={"gold": MEMBERS, "silver": f"{MEMBERS} WHERE customer_id LIKE 'new%'"},
        user_keys={"userId": "user_id", "email": "email"},
    ) as opened:
        yield opened


def sync(sending: Sending, *orders: tuple[str, str], audience: str = "gold") -> None:
    """Have these people, each with an e-mail address, as members, and sync."""
    sending.shop.set_orders(orders)
    sending.sync_again(audience)


def gold(sending: Sending, key: str = "email") -> dict[str, object]:
    """Return what Schematic knows of everybody, by the value of a key."""
    return {value: traits.get("gold") for value, traits in sending.sandbox.ledger.all_traits(key)}


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [FaultRule(drop=True, times=5)],
        [FaultRule(status=503, times=8), FaultRule(drop=True, times=3)],
    ],
    ids=["no faults", "lost answers", "an outage"],
)
def test_an_account_created_again_keeps_the_trait(sending: Sending, rules: list[FaultRule]) -> None:
    """Everybody has a new id under the old address: the exits of the old ids take nothing from the new ones."""
    sync(sending, *((f"old{n}", email) for n, email in enumerate(PEOPLE)))
    sending.deliver()
    sync(sending, *((f"new{n}", email) for n, email in enumerate(PEOPLE)))
    sending.sandbox.faults.set(rules)
    report = sending.with_settings(delivery={"batch_size": 1}).deliver()

    assert (report.open, report.dead) == (0, 0)
    assert gold(sending) == dict.fromkeys(PEOPLE, True)


def test_one_of_two_ids_leaves(sending: Sending) -> None:
    """Of two members with one address one leaves, in a later run: the other still has the trait."""
    sync(sending, ("u1", "a@example.com"), ("u3", "c@example.com"))
    sending.deliver()
    sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"), ("u3", "c@example.com"))
    sending.deliver()
    sync(sending, ("u2", "a@example.com"), ("u3", "c@example.com"))
    sending.deliver()

    assert gold(sending) == {"a@example.com": True, "c@example.com": True}
    resent = sending.rows("SELECT profile_key FROM sent_deliveries ORDER BY accepted_at, profile_key")
    assert [key for (key,) in resent].count("u3") == 1  # nobody else was sent again
    assert sending.rows("SELECT name, value, profiles FROM shared_identifiers") == [("email", "a@example.com", 2)]


def test_shared_identifiers_are_counted(sending: Sending) -> None:
    """`sync`, `status` and `check` say how many identifiers several profiles have."""
    sentence = "1 user identifier shared by several profiles, which Schematic may treat as one user"
    hint = "the view `shared_identifiers` lists them; use a unique value for each person, or remove the key"
    words = ["--config", str(sending.settings.path)]
    environment = {**os.environ, "SCHEMATIC_API_KEY": sending.key, "COLUMNS": "300"}
    sync(sending, ("u1", "a@example.com"), ("u2", "b@example.com"))
    before = call([*words, "sync", "gold"], environment)
    sending.shop.set_orders([("u1", "a@example.com"), ("u2", "a@example.com")])
    after, status, check = (
        call([*words, *command], environment) for command in (["sync", "gold"], ["status"], ["check"])
    )

    assert (before.code, after.code) == (0, 0)
    assert "warning" not in before.err
    assert f"warning: {sentence}; hint: {hint}\n" in after.err
    assert f"identifiers: {sentence}\n" in status.out
    assert sentence in check.out
    assert hint in check.out
    (whole,) = call([*words, "status", "--format", "json"], environment).out.splitlines()
    assert json.loads(whole)["shared_identifiers"] == 1


def test_an_address_is_handed_over(sending: Sending) -> None:
    """An update carries no address that another profile has had: Schematic would find two users by it."""
    sync(sending, ("u1", "a@example.com"), ("u2", "b@example.com"))
    sending.deliver()
    sync(sending, ("u2", "a@example.com"))
    sending.deliver()

    assert gold(sending, "userId") == {"u1": False, "u2": True}
    assert sending.rows("SELECT name, value, profiles FROM shared_identifiers") == [("email", "a@example.com", 2)]
    assert {event.status for event in sending.events()} == {"processed"}


def test_an_address_is_given_up_and_taken_in_one_run(sending: Sending) -> None:
    """Whoever gives an address up is sent before its new owner: the two do not become one user."""
    owners, heirs = ([f"{kind}{n}" for n in range(len(PEOPLE))] for kind in ("owner", "heir"))
    sync(sending, *zip(owners, PEOPLE, strict=True))
    sending.deliver()
    given_up = [(owner, f"new-{email}") for owner, email in zip(owners, PEOPLE, strict=True)]
    sync(sending, *given_up, *zip(heirs, PEOPLE, strict=True))
    sending.with_settings(delivery={"batch_size": 1}).deliver()
    told = [user_of(event) for event in sending.events()][len(PEOPLE) :]
    sync(sending, *zip(heirs, PEOPLE, strict=True))
    sending.deliver()

    assert (sorted(told[: len(PEOPLE)]), sorted(told[len(PEOPLE) :])) == (sorted(owners), sorted(heirs))
    assert gold(sending, "userId") == dict.fromkeys(owners, False) | dict.fromkeys(heirs, True)
    assert {event.status for event in sending.events()} == {"processed"}


def test_exits_go_before_everything_else(sending: Sending) -> None:
    """While an exit is under way, nothing else is; a profile with an exit and an entry gets two events."""
    sync(sending, *((f"old{n}", email) for n, email in enumerate(PEOPLE)), ("new", "n@example.com"))
    sending.deliver()
    sending.sandbox.faults.set([FaultRule(hold=True, user_key="old3", times=1)])
    sync(sending, *((f"new{n}", email) for n, email in enumerate(PEOPLE)))
    sending.sync_again("silver")
    with sending.delivering() as report:
        assert sending.sandbox.gate.wait_for(1)
        sent = {user_of(event) for event in sending.events()[len(PEOPLE) + 1 :]}
        sending.sandbox.gate.release()
        assert report.result().open == 0

    assert {user for user in sent if user.startswith("new") and user != "new"} == set()
    assert gold(sending) == dict.fromkeys(PEOPLE, True) | {"n@example.com": False}


def test_an_exit_that_is_stuck_holds_up_nobody(sending: Sending) -> None:
    """An exit that fails for ever waits alone; entries go on."""
    sync(sending, ("u1", "a@example.com"), ("u2", "b@example.com"))
    sending.deliver()
    sync(sending, ("u2", "b@example.com"), ("u3", "c@example.com"))
    sending.sandbox.faults.set([FaultRule(status=500, user_key="u1")])
    sending.deliver_until(lambda: bool(gold(sending).get("c@example.com")))

    assert gold(sending) == {"a@example.com": True, "b@example.com": True, "c@example.com": True}
    sending.sandbox.faults.clear()
    sending.deliver()
    assert gold(sending, "userId") == {"u1": False, "u2": True, "u3": True}


def test_an_exit_that_was_stuck_takes_no_trait_away(sending: Sending) -> None:
    """Once an exit is accepted that others have passed, whoever shares an identifier with it is sent again."""
    sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"))
    sending.deliver()
    sync(sending, ("u2", "a@example.com"), ("u3", "c@example.com"))
    sending.sandbox.faults.set([FaultRule(status=500, user_key="u1")])
    sending.deliver_until(lambda: bool(gold(sending).get("c@example.com")))
    sending.sandbox.faults.clear()

    assert sending.deliver().open == 0
    assert gold(sending) == {"a@example.com": True, "c@example.com": True}


def test_an_exit_that_was_accepted_before_it_was_refused(sending: Sending) -> None:
    """An exit may have been accepted though it is dead: its first answer was lost."""
    sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"))
    sending.deliver()
    sync(sending, ("u2", "a@example.com"))
    refused = FaultRule(status=400, user_key="u1")
    sending.sandbox.faults.set([FaultRule(drop=True, user_key="u1", times=1), refused])

    report = sending.deliver()
    assert (report.open, report.dead) == (0, 1)
    assert gold(sending) == {"a@example.com": True}


def test_a_trait_that_is_false_is_no_exit(tmp_path: Path, database: Database, sandbox: FaultySandbox) -> None:
    """Two people who share an address and have the value false are sent once each, not in turns for ever."""
    keys = {"userId": "user_id", "email": "email"}
    sql = "SELECT customer_id AS user_id, company_id AS email, 1 = 0 AS value FROM orders"
    values = {"sql": sql, "user_keys": keys, "type": "boolean"}
    with open_sending(tmp_path, database, sandbox, audiences={}, traits={"vip": values}) as sending:
        sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"), audience="vip")

        assert sending.deliver().open == 0
        assert sorted(user_of(event) for event in sending.events()) == ["u1", "u2"]


def test_a_forgotten_exit_may_have_been_accepted(sending: Sending) -> None:
    """Whoever shares an address with somebody who is forgotten in the middle of leaving keeps the trait."""
    sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"))
    sending.deliver()
    sync(sending, ("u1", "a@example.com"))
    sending.sandbox.faults.set([FaultRule(drop=True, user_key="u2")])
    sending.deliver_until(lambda: gold(sending) == {"a@example.com": False})
    sending.sandbox.faults.clear()
    ended = call(["--config", str(sending.settings.path), "forget", "u2", "--yes"], os.environ)

    assert ended.code == 0, ended.err
    assert sending.deliver().open == 0
    assert gold(sending) == {"a@example.com": True}


def test_a_forgotten_person_leaves_no_identifier(sending: Sending) -> None:
    """The addresses of a person go with the person."""
    sync(sending, ("u1", "a@example.com"), ("u2", "b@example.com"))
    sending.deliver()

    with sending.workspace.database.write() as connection:
        erasure.forget(connection, "u1")

    assert sending.rows("SELECT profile_key, name, value FROM user_identifiers") == [("u2", "email", "b@example.com")]


def test_an_exit_of_somebody_who_was_never_sent(sending: Sending) -> None:
    """Two ids with one address are one user from the start, although the first of them leaves before it is sent."""
    sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"))
    sync(sending, ("u2", "a@example.com"))
    sending.deliver()
    sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"))
    sending.deliver()

    assert gold(sending) == {"a@example.com": True}
    assert {event.status for event in sending.events()} == {"processed"}


def test_an_entry_that_is_dead_helps_nobody(sending: Sending) -> None:
    """A person who leaves, comes back and is refused then takes no trait from the others with the same address."""
    sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"))
    sending.deliver()
    sync(sending, ("u2", "a@example.com"))
    sending.sandbox.faults.set([FaultRule(hold=True, user_key="u1", times=1), FaultRule(status=422, user_key="u1")])
    with sending.delivering() as report:
        assert sending.sandbox.gate.wait_for(1)
        sync(sending, ("u1", "a@example.com"), ("u2", "a@example.com"))
        sending.sandbox.gate.release()
        ended = report.result()

    assert (ended.open, ended.dead) == (0, 1)
    assert gold(sending) == {"a@example.com": True}


def test_the_first_delivery_sends_exits_first(sending: Sending) -> None:
    """An exit and an entry of one profile are two events from the first delivery on, and the entry has its address."""
    sync(sending, ("new1", "a@example.com"), ("u2", "a@example.com"))
    sending.sync_again("silver")
    sync(sending, ("u2", "a@example.com"))
    sending.sync_again("gold")
    sending.shop.set_orders([("new1", "a@example.com"), ("u2", "a@example.com")])
    sending.sync_again("silver")
    sending.deliver()

    told = [event.body["traits"] for event in sending.events() if user_of(event) == "new1"]
    assert told == [{"gold": False}, {"silver": True}]
    assert {event.status for event in sending.events()} == {"processed"}


@pytest.mark.parametrize(("bad", "status"), [(["u0"], 503), (["u0", "u2"], 500)])
def test_an_exit_that_fails_is_found_in_its_batch(sending: Sending, bad: list[str], status: int) -> None:
    """Exits that fail for ever hold up neither the exits that were taken with them nor what waits for exits."""
    people = [(f"u{n}", f"{n}@example.com") for n in range(8)]
    sync(sending, *people)
    sending.deliver()
    sync(sending, *people[3:], ("new", "new@example.com"))
    sending.sandbox.faults.set([FaultRule(status=status, user_key=key) for key in bad])
    patient = sending.with_settings(delivery={"max_backoff": timedelta(seconds=0.1)})
    patient.deliver_until(lambda: bool(gold(sending).get("new@example.com")))

    stay = [*(key for key, _ in people[3:]), "new", *bad]
    assert gold(sending, "userId") == {"u0": False, "u1": False, "u2": False} | dict.fromkeys(stay, True)


def test_forget_beside_a_delivery(
    sending: Sending, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that is taken while `forget` waits is waited for, too; then nothing of the person is left."""
    sync(sending, ("u1", "a@example.com"), ("u2", "b@example.com"))
    workspace = sending.workspace
    taken: list[Batch] = []

    def take(_: float) -> None:
        if len(taken) < 2:
            with workspace.database.write() as connection:
                events = [make_event(make_open(key, generation=n)) for n, key in enumerate(("u1", "u2"))]
                taken.append(take_batch(connection, *events, now_ms=workspace.now_ms(connection), holder="elsewhere"))

    take(0)
    monkeypatch.setattr(operate_commands, "time", SimpleNamespace(sleep=take))
    operate_commands._erase(workspace, "u1", make_settings())

    assert len(taken) == 2
    with workspace.database.write() as connection:
        assert not any(erasure.traces(connection, "u1").values())
        assert batches.settle(connection, [(batch, 200) for batch in taken], now_ms=1) == taken
        free = batches.claim_free(
            connection, holder="me", dead=(), now_ms=workspace.now_ms(connection), claim_until=2**60, forwarded=True
        )
        assert [one.contents.profile_keys for one in free] == [["u2"], ["u2"]]
