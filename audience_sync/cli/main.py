"""The command line application: global options, the table of commands, and the handling of failures.

Commands and error handling are imported only when needed, to keep `--version` and `--help` fast.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from audience_sync import __version__
from audience_sync.cli.shell_completion import is_completing, outline, prepare
from audience_sync.config_path import find_config
from audience_sync.errors import INTERRUPTED, AudienceSyncError

if TYPE_CHECKING:  # `--version` and `--help` need no configuration, and importing it takes most of the start-up time
    from audience_sync.config import Settings


# --- global options ---------------------------------------------------------------------------------------------------
# Every command gets the global options in its context.


@dataclass
class Globals:
    """The values of the global options."""

    config: Path | None = None

    def path(self) -> Path:
        """Return the configuration file: the named one, or the one that `config_path.find_config` finds."""
        return find_config(self.config, os.environ)

    def settings(self) -> Settings:
        """Read the configuration.

        Raises:
            ConfigError: the configuration is missing or invalid.
        """
        from audience_sync.config import load  # noqa: PLC0415

        return load(self.path(), os.environ)


# --- table of commands ------------------------------------------------------------------------------------------------
# The table of commands: the module of each command and its line in `--help`. A module is imported when it is needed.
#
# The lines repeat the first sentence of each command's docstring; a test compares them.


class Listed(NamedTuple):
    """A command in the table: its module in `audience_sync.cli` and its line in the list of commands."""

    module: str
    help: str


SECTIONS: Final[dict[str, dict[str, Listed]]] = {
    "Set up": {
        "init": Listed("setup_commands", "Write an example configuration and create the membership database."),
        "check": Listed("setup_commands", "Check the configuration, databases, audiences and Schematic."),
        "migrate": Listed("setup_commands", "Upgrade the membership database to this version, or create it."),
        "schema": Listed("setup_commands", "Print the JSON schema of the configuration file, for editors."),
        "service": Listed("setup_commands", "Print the systemd unit with the commands that install it."),
    },
    "Sync and deliver": {
        "sync": Listed("sync_commands", "Evaluate audiences and computed traits, and send what changed."),
        "plan": Listed("sync_commands", "Show what a sync would change and send."),
        "approve": Listed("sync_commands", "Apply the plan of a blocked run and send its changes."),
        "retract": Listed("sync_commands", "End an audience or computed trait and retire its key."),
        "deliver": Listed("deliver_commands", "Deliver everything pending, then exit."),
        "run": Listed("deliver_commands", "Run as a service: sync on schedule and deliver continuously."),
        "forward": Listed("forward_command", "Send a file of Segment events through the mappings."),
    },
    "Inspect": {
        "status": Listed("status_commands", "Show audiences, pending deliveries, blocked runs and processes."),
        "audiences": Listed("status_commands", "List audiences and computed traits with their state."),
        "members": Listed("inspect_commands", "List the members of an audience, now or at an earlier time."),
        "profile": Listed("inspect_commands", "Show everything about one user."),
        "runs": Listed("inspect_commands", "List runs, newest first."),
        "changes": Listed("inspect_commands", "List who entered, exited or was updated, newest runs first."),
        "rejections": Listed("inspect_commands", "List source rows that were rejected or changed, and why."),
        "explain": Listed("explain_commands", "Explain why a user is or is not in an audience."),
        "preview": Listed("explain_commands", "Count the members of an audience and show a sample."),
        "events": Listed("events_command", "List forwarded events that Schematic has not accepted."),
    },
    "Operate": {
        "dead": Listed("operate_commands", "List, retry or discard dead letters."),
        "pause": Listed("operate_commands", "Pause the syncs and deliveries of an audience."),
        "resume": Listed("operate_commands", "Resume the syncs and deliveries of a paused audience."),
        "forget": Listed("operate_commands", "Erase one user from the membership database."),
        "database": Listed("database_commands", "Move the membership database to SQLite or PostgreSQL."),
    },
    "Learn": {
        "manual": Listed("manual_command", "Show a page of the manual, or list its pages."),
        "demo": Listed("demo_commands", "Sync a small example shop into a local Schematic."),
        "sandbox": Listed("demo_commands", "Run a local Schematic until Ctrl-C."),
        "completion": Listed("completion_command", "Print the script with which your shell completes commands."),
    },
}
COMMANDS: Final = {name: listed for section in SECTIONS.values() for name, listed in section.items()}


class CommandTable(TyperGroup):
    """The top-level command: lists its commands from the table and imports the one that runs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name) for name in COMMANDS}  # names alone, for "Did you mean …?"

    def get_command(self, _context: Any, name: str) -> TyperCommand | TyperGroup | None:
        """Import a command and return it, or its outline while a shell completes it; None for an unknown name."""
        if name not in COMMANDS:
            return None
        return outline(name, COMMANDS[name].help) if is_completing() else load(name)

    def format_commands(self, _context: Any, formatter: Any) -> None:
        """Write the list of commands by section."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, listed.help) for name, listed in section.items()])


@cache
def load(name: str) -> TyperCommand | TyperGroup:
    """Import the module of a command and return the command."""
    app = typer.Typer(rich_markup_mode=None)
    import_module(f"audience_sync.cli.{COMMANDS[name].module}").register(app)
    found: TyperCommand | TyperGroup = typer.main.get_group(app).commands[name]  # type: ignore[assignment]
    for command in [found, *getattr(found, "commands", {}).values()]:
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = _no_type
            if parameter.metavar != "FILE":  # names of files may have any bytes
                parameter.callback = partial(_checked, parameter.callback)
    return found


def _checked(callback: Callable[..., Any] | None, context: Any, parameter: Any, value: Any) -> Any:
    """Refuse words whose bytes are not UTF-8, which neither databases nor JSON take; then call the callback."""
    for word in value if isinstance(value, list | tuple) else [value]:
        if type(word) is str and any("\ud800" <= one <= "\udfff" for one in word):
            raise typer.BadParameter("is not valid UTF-8 text", ctx=context, param=parameter)
    return value if callback is None else callback(context, parameter, value)


def _no_type(**_: object) -> None:
    """Do not show a Python type next to the name of an argument in help."""


# --- running a command ------------------------------------------------------------------------------------------------

TRACEBACK_VARIABLE = "AUDIENCE_SYNC_TRACEBACK"
NAME = "audience-sync"
USAGE: Final = 2  # the exit code of an unknown command or option, or of a wrong value
_USAGE_ERROR: Final[Any] = typer.BadParameter.__mro__[1]  # the base of all usage errors, which Typer does not export


def build() -> typer.Typer:
    """Return the application with every command."""
    app = typer.Typer(
        name=NAME,
        cls=CommandTable,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,  # importing Rich takes longer than everything else in `--help`
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "terminal_width": _narrow_width()},
    )
    app.callback()(_globals)
    if is_completing():
        prepare()
    return app


def _narrow_width() -> int | None:
    """Return the width of a terminal that is too narrow for the 50 columns of Click's help; else let Click decide."""
    columns = shutil.get_terminal_size().columns
    return columns if columns < 52 else None


def main() -> None:
    """Run the command that the arguments name, and exit with its exit code."""
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has exited, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    sys.exit(code)


def _run() -> int:
    done: object
    try:
        done = typer.main.get_command(build()).main(prog_name=NAME, standalone_mode=False)
    except SystemExit as ended:  # raised by Typer when a pipe has no reader
        done = ended.code
    except KeyboardInterrupt:
        done = INTERRUPTED
    except _USAGE_ERROR as error:
        _say_usage(error)
        return USAGE
    except typer.Abort:
        typer.echo("Aborted!", err=True)
        return 1
    except AudienceSyncError as error:
        _complain(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the top: an unexpected error, too, is reported in one sentence
        _complain(_sentence_of(error))
        if os.environ.get(TRACEBACK_VARIABLE):
            import traceback  # noqa: PLC0415

            traceback.print_exc()
        return 1
    if done == INTERRUPTED:
        typer.echo("interrupted", err=True)
    return done if isinstance(done, int) else int(done is not None)


def _say_usage(error: Any) -> None:
    """Print Typer's message for a usage error, wrapped on a terminal."""
    if not sys.stderr.isatty():
        error.show()
        return
    from rich.text import Text  # noqa: PLC0415

    from audience_sync.cli.context import console  # noqa: PLC0415

    said = io.StringIO()
    error.show(said)
    console.print(Text(said.getvalue().rstrip("\n")))


def _sentence_of(error: Exception) -> AudienceSyncError:
    """Return an unexpected error as a sentence, without the statement and the personal data that SQLAlchemy adds."""
    from audience_sync.database_error import first_line  # noqa: PLC0415

    return AudienceSyncError(
        f"unexpected {type(error).__name__}: {first_line(error)}",
        hint=f"set {TRACEBACK_VARIABLE}=1 to see the traceback",
    )


def _complain(error: AudienceSyncError) -> None:
    from audience_sync.cli import run_output  # noqa: PLC0415

    run_output.complain(error)


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
            help="Configuration file (default: $AUDIENCE_SYNC_CONFIG, ./config.toml or"
            " /etc/audience-sync/config.toml, the first that exists).",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Segment Engage for your own database: define audiences where your data is and sync them to Schematic."""
    context.obj = Globals(config=config)
