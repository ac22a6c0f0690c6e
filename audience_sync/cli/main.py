"""The command line as a whole: the global options, every command, and how a failure leaves the process."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from rich.text import Text

from audience_sync import __version__
from audience_sync.cli import delivering, events, explaining, forwarding, inspecting, operating, setup, syncing, trying
from audience_sync.cli.context import Globals, console
from audience_sync.db import first_line
from audience_sync.errors import INTERRUPTED, AudienceSyncError

TRACEBACK_VARIABLE = "AUDIENCE_SYNC_TRACEBACK"
NAME = "audience-sync"


def build() -> typer.Typer:
    """Return the application with every command."""
    app = typer.Typer(
        name=NAME,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_globals)
    for module in (setup, syncing, delivering, forwarding, inspecting, explaining, events, operating, trying):
        module.register(app)
    return app


def main() -> None:
    """Run the command that the arguments name, and leave with its exit code."""
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    sys.exit(code)


def _run() -> int:
    try:
        typer.main.get_command(build()).main(prog_name=NAME)
    except SystemExit as done:  # of Typer: the end of every command, a usage error (2), an interrupt
        if done.code == INTERRUPTED:
            console.print("interrupted")
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED
    except AudienceSyncError as error:
        _complain(str(error), error.hint)
        return error.exit_code
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        _complain(f"the membership database does not answer: {first_line(error)}", "nothing was lost: try again")
        return 1
    except Exception as error:  # noqa: BLE001 - the top: what nobody foresaw is still told in one sentence
        # The database's errors go on to print their parameters: people's data.
        sentence = first_line(error) if isinstance(error, sa.exc.SQLAlchemyError) else str(error)
        _complain(f"unexpected {type(error).__name__}: {sentence}", f"set {TRACEBACK_VARIABLE}=1 to see where")
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        return 1
    return 0


def _complain(sentence: str, hint: str | None) -> None:
    console.print(Text.assemble(("error: ", "red"), sentence))
    if hint:
        console.print(Text.assemble(("try: ", "bold"), hint))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit


def _globals(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="By default $AUDIENCE_SYNC_CONFIG, ./config.toml or /etc/audience-sync/config.toml.",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show it.")
    ] = False,
) -> None:
    """Segment Engage for your own database: audiences computed where your users live, kept true in Schematic."""
    context.obj = Globals(config=config)
