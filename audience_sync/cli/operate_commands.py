"""The commands dead, pause, resume and forget, which change the membership database and send nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from sqlalchemy.engine import Connection

from audience_sync import runtime
from audience_sync.cli import run_output
from audience_sync.cli.console import Format, FormatOption, LimitOption, print_records, print_result
from audience_sync.cli.context import clock, console, settings_of
from audience_sync.cli.inspect_commands import LIMIT, AudienceArgument, OptionalAudience, StoredUserArgument
from audience_sync.cli.status_commands import chosen_audience, known_audience
from audience_sync.cli.text_table import TableView
from audience_sync.config import Settings
from audience_sync.core.text import counted, short_duration
from audience_sync.errors import ConfigError, LeaseHeld, UnknownName
from audience_sync.store import (
    audiences,
    backlog,
    backup_mark,
    batches,
    dead_letters,
    erasure,
    generations,
    identifiers,
    runs,
    subscriptions,
)
from audience_sync.store.audiences import AudienceRow
from audience_sync.store.database import Database
from audience_sync.store.workspace import Workspace

DEAD_SHOWN = TableView(
    tuple([column for column in dead_letters.COLUMNS if column != "state"]),
    optional=("value", "since", "type", "name", "run_id", "message_id", "generation"),
)
CLAIM_TIMEOUT = 10.0  # seconds to wait for syncs and deliveries of other processes
CLAIM_INTERVAL = 0.2  # seconds between two attempts

ProfileOption = Annotated[
    str | None, typer.Option("--profile", metavar="USER", help="Show only rows for this user (default: all).")
]
EventsOption = Annotated[bool, typer.Option("--events", help="Only forwarded events.")]
HookOption = Annotated[
    str | None, typer.Option("--hook", metavar="NAME", help="Only messages for this hook (default: none of any hook).")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True)
    for command, name, example in (
        (dead_list, "list", "audience-sync dead list big_spenders --format json"),
        (dead_retry, "retry", "audience-sync dead retry && audience-sync deliver"),
        (dead_discard, "discard", "audience-sync dead discard --profile user_42 --yes"),
    ):
        group.command(name, epilog=f"Example: {example}")(command)
    app.add_typer(group, name="dead", help="List, retry or discard dead letters.")
    for operation, example in (
        (pause, "audience-sync pause big_spenders"),
        (resume, "audience-sync resume big_spenders"),
        (forget, "audience-sync forget user_42"),
    ):
        app.command(epilog=f"Example: {example}")(operation)


def dead_list(
    context: typer.Context,
    audience: OptionalAudience = None,
    user: ProfileOption = None,
    *,
    events: EventsOption = False,
    hook: HookOption = None,
    limit: LimitOption = LIMIT,
    format: FormatOption = Format.TABLE,
) -> None:
    """List dead letters and the reason for each.

    Dead letters are audience values and forwarded events that Schematic refused or that a mapping failed on. They are
    not retried until you run `dead retry`. AUDIENCE lists only values of that audience, and no forwarded events. --hook
    lists the messages that a hook refused instead.
    """
    settings = settings_of(context)
    with runtime.opened(settings) as database:
        found = dead_letters.listed(database, _which(database, settings, audience, user=user, events=events, hook=hook))
        shown = DEAD_SHOWN.narrowed_to("audience", audience).narrowed_to("profile_key", user)
        print_records(found, dead_letters.COLUMNS, format=format, limit=limit, shown=shown)


def dead_retry(
    context: typer.Context,
    audience: OptionalAudience = None,
    user: ProfileOption = None,
    *,
    events: EventsOption = False,
    hook: HookOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Send dead values and events again.

    Values are sent with their current value and identifiers. Forwarded events are sent as received, after those that
    are already pending; bodies that Schematic already accepted are not sent again.
    """
    settings = settings_of(context)
    with runtime.opened(settings, on_wait=run_output.waiting_for_lock) as database:
        which = _which(database, settings, audience, user=user, events=events, hook=hook)
        with database.write() as connection:
            retried = dead_letters.retry(connection, which, now_ms=clock().now_ms())
    total = _print_dead(retried, "reopened", format=format)
    if total:
        console.print("`audience-sync deliver` sends them now; a running service sends them by itself")


def dead_discard(
    context: typer.Context,
    audience: OptionalAudience = None,
    user: ProfileOption = None,
    *,
    events: EventsOption = False,
    hook: HookOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Delete dead values and events without sending them.

    Schematic keeps its current value, even if it differs from the membership database. For an event, Schematic keeps
    the bodies that it already accepted. With --hook, deletes the messages that this hook refused or, if the hook is no
    longer in the configuration, everything that waits for it.
    """
    settings = settings_of(context)
    with runtime.opened(settings, on_wait=run_output.waiting_for_lock) as database:
        which = _which(database, settings, audience, user=user, events=events, hook=hook)
        if hook is not None and user is None and hook not in settings.hook_names:
            _drop_hook(database, hook, yes=yes, format=format)
            return
        with database.read() as connection:
            count = dead_letters.count(connection, which)
        if count:
            run_output.confirm(f"Discard {counted(count, 'dead letter')} without sending?", yes=yes)
        with database.write() as connection:
            discarded = dead_letters.discard(connection, which)
    _print_dead(discarded, "discarded", format=format)
    if discarded.get("outbox"):
        console.print("`audience-sync sync AUDIENCE --resync` sends every current value again")


def _print_dead(counts: Mapping[str, int], done: str, *, format: Format) -> int:
    """Print the number of dead letters that were reopened or discarded, and return it; `counts` has it by table."""
    total = sum(counts.values())
    record = {done: total, "values": counts.get("outbox", 0), "events": counts.get("events", 0)}
    print_result(record, f"dead letters {done}: {total:,}", format=format)
    return total


def pause(context: typer.Context, audience: AudienceArgument, format: FormatOption = Format.TABLE) -> None:
    """Pause the syncs and deliveries of an audience.

    Its pending values are held back; a batch in progress is still sent. Other audiences continue.
    """
    key = _set_state(context, audience, "paused")
    print_result({"audience": key, "state": "paused"}, f"{key} is paused", format=format)
    console.print(f"to continue, run `audience-sync resume {key}`")


def resume(context: typer.Context, audience: AudienceArgument, format: FormatOption = Format.TABLE) -> None:
    """Resume the syncs and deliveries of a paused audience."""
    key = _set_state(context, audience, "active")
    print_result({"audience": key, "state": "active"}, f"{key} is active", format=format)


def forget(
    context: typer.Context,
    user: StoredUserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Erase one user from the membership database.

    This cannot be undone. It does not delete the user from Schematic: do that yourself. If the user is still in the
    source, the next sync adds them again. Waits up to `timeout` + 10 s for requests that may contain the user's events.
    """
    settings = settings_of(context)
    with runtime.working(settings, clock(), any_age=True) as workspace:
        with workspace.database.read() as connection:
            found = erasure.known_traces(connection, user)
        console.print(f"found for this user: {_listed(found)}")
        run_output.confirm("Erase all of this?", yes=yes)
        with _without_syncs(workspace):
            erased, told = _erase(workspace, user, settings)
            workspace.reach("forget.erased")
        erasure.compact(workspace.database)
    print_result({"profile_key": user, "erased": erased}, f"erased: {_listed(erased)}", format=format)
    if told:
        console.print(f"{counted(told, 'hook')} will get the message `deleted` with the next delivery")
    console.print(f"now delete this user in {settings.destination.display_name}")
    console.print("the user comes back with the next sync if still in the source, or with the next forwarded event")


def _listed(found: dict[str, int]) -> str:
    return ", ".join(f"{table} {count:,}" for table, count in found.items() if count) or "nothing"


def _erase(workspace: Workspace, user: str, settings: Settings) -> tuple[dict[str, int], int]:
    """Erase a user once no request with this user's events can be in progress; return as `_erase_now`."""
    workspace.release_dead_holders()  # nobody waits for the dead
    timeout = max(one.destination.timeout for one in settings.routes)
    lasts = int(2 * (timeout.total_seconds() + workspace.tuning.claim_margin_seconds) * 1000)
    while True:
        with workspace.database.write() as connection:
            erasure.block_taking(connection)
            now, holder = workspace.now_ms(connection), workspace.holder.name
            ends = batches.seize(connection, user, holder=holder, now_ms=now, claim_until=now + lasts)
            if ends <= now:
                return _erase_now(connection, workspace, user, settings)
        workspace.reach("forget.seized")
        left = short_duration(timedelta(seconds=(ends - now) // 1000 + 1))
        console.print(f"waiting {left} for a delivery that may be sending this user's events")
        time.sleep((ends - now) / 1000)


def _erase_now(
    connection: Connection, workspace: Workspace, user: str, settings: Settings
) -> tuple[dict[str, int], int]:
    """Erase a user; return what was erased, and how many subscribers get a message about it."""
    is_newest, now_ms = not backup_mark.is_behind(connection), workspace.clock.now_ms()
    if is_newest:  # an older backup still has the erased user
        generations.advance(connection, now_ms)
        posted = batches.open_events_of(connection, user)  # possibly, if a response was lost
        identifiers.resend_sharers(connection, posted, now_ms=now_ms)
    erased = erasure.forget(connection, user)
    if not is_newest:
        return erased, 0
    subscriptions.end_others(connection, settings.hook_names)
    return erased, subscriptions.enqueue_deletion(connection, user, now_ms=now_ms)


@contextmanager
def _without_syncs(workspace: Workspace) -> Iterator[None]:
    """Hold the leases of all audiences; see `erasure.forget`.

    Raises:
        LeaseHeld: another process holds one of them for longer than `CLAIM_TIMEOUT`.
    """
    with workspace.database.read() as connection:
        missing = {row.id for row in audiences.every(connection)}
    with ExitStack() as stack:
        deadline = time.monotonic() + CLAIM_TIMEOUT
        while missing:
            lease = workspace.hold(missing, seconds=workspace.tuning.lease_seconds)
            if lease is not None:
                stack.enter_context(lease)
                missing.difference_update(lease.lease.audience_ids)
            elif time.monotonic() > deadline:
                raise LeaseHeld(
                    "nothing was erased: a running sync may be using this user's data",
                    hint=(
                        "wait for the sync to finish (`audience-sync status` shows it) or stop the service,"
                        " then try again"
                    ),
                )
            else:
                time.sleep(CLAIM_INTERVAL)
        yield


def _set_state(context: typer.Context, word: str, state: str) -> str:
    """Set the state of an audience to active or paused and return its key; register an audience that was never synced.

    Raises:
        UnknownName: the audience is unknown.
        ConfigError: the audience is retired.
    """
    settings = settings_of(context)
    opened = runtime.opened(settings, on_wait=run_output.waiting_for_lock)
    with opened as database, database.write() as connection:
        row: AudienceRow
        if audiences.find(connection, word) is None and any(word in (one.key, one.name) for one in settings.audiences):
            configured = settings.audience(word)
            row = audiences.register(
                connection,
                key=configured.key,
                name=configured.name,
                now_ms=clock().now_ms(),
                computation=configured.computation,
            )
        else:
            row = known_audience(connection, settings, word)
        if row.state == "retired":
            raise ConfigError(f"audience {row.key!r} is retired", hint="use another name or key to start over")
        audiences.set_state(connection, row.id, state)
        if state == "active":
            runs.release(connection, row.id, now_ms=clock().now_ms())
    return row.key


def _which(
    database: Database, settings: Settings, word: str | None, *, user: str | None, events: bool, hook: str | None
) -> dead_letters.Which:
    """Return which dead rows a command selects.

    Raises:
        typer.BadParameter: --events or --hook with an audience, or both of them.
        UnknownName: the audience or the hook is unknown.
    """
    if word is not None and events:
        raise typer.BadParameter("--events cannot be combined with AUDIENCE")
    if hook is not None and (word is not None or events):
        raise typer.BadParameter("--hook cannot be combined with AUDIENCE or --events")
    with database.read() as connection:
        if hook is None:
            return dead_letters.Which(chosen_audience(connection, settings, word), user, events)
        known = settings.hook_names | set(subscriptions.destinations(connection))
        if hook not in known:
            raise UnknownName(f"there is no hook {hook!r}", hint="`audience-sync status` lists them")
        return dead_letters.Which(None, user, destination=hook)


def _drop_hook(database: Database, hook: str, *, yes: bool, format: Format) -> None:
    """Drop everything that waits for a hook that was removed from the configuration."""
    with database.read() as connection:
        waiting, _, dead = backlog.count(connection, destination=hook)
    run_output.confirm(
        f"Discard {counted(waiting + dead, 'message')} for the removed hook {hook} without sending?", yes=yes
    )
    with database.write() as connection:
        dropped = subscriptions.drop(connection, hook)
    record = {"discarded": dropped, "values": 0, "events": dropped}
    print_result(record, f"messages discarded: {dropped:,}", format=format)
