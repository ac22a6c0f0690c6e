"""The command line as a whole: the global options, and how a failure ends the process.

Commands are imported when they run, and so is what a failure needs: `--version` and `--help` stay fast.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from audience_sync import __version__
from audience_sync.cli.commands import CommandTable
from audience_sync.cli.globals import Globals
from audience_sync.errors import INTERRUPTED, AudienceSyncError

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
        rich_markup_mode=None,  # to import Rich takes longer than everything else that `--help` does
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "terminal_width": _narrow_width()},
    )
    app.callback()(_globals)
    return app


def _narrow_width() -> int | None:
    """Return the width of a terminal that is narrower than the 50 columns that Click's help needs; else it decides."""
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
    """Print what Typer says of a usage error, wrapped on a terminal."""
    if not sys.stderr.isatty():
        error.show()
        return
    from rich.text import Text  # noqa: PLC0415

    from audience_sync.cli.context import console  # noqa: PLC0415

    said = io.StringIO()
    error.show(said)
    console.print(Text(said.getvalue().rstrip("\n")))


def _sentence_of(error: Exception) -> AudienceSyncError:
    """Return an unexpected error as a sentence, without what SQLAlchemy adds: the statement and people's data."""
    from audience_sync.database_error import first_line  # noqa: PLC0415

    return AudienceSyncError(
        f"unexpected {type(error).__name__}: {first_line(error)}",
        hint=f"set {TRACEBACK_VARIABLE}=1 to see where it was raised",
    )


def _complain(error: AudienceSyncError) -> None:
    from audience_sync.cli import reporting  # noqa: PLC0415

    reporting.complain(error)


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
            help="The configuration file. Default: $AUDIENCE_SYNC_CONFIG, else ./config.toml,"
            " else /etc/audience-sync/config.toml.",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Segment Engage for your own database: audiences computed where your users live, kept true in Schematic."""
    context.obj = Globals(config=config)
