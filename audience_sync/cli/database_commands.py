"""The command `database copy`, which moves the membership database to another place."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer
from rich.text import Text

from audience_sync import kill_points, runtime
from audience_sync.cli import run_output
from audience_sync.cli.console import Format, FormatOption, Progress, print_records
from audience_sync.cli.context import clock, console, settings_of
from audience_sync.config import Settings
from audience_sync.config.types import FileContext, SecretUrl, parse_database_url
from audience_sync.core.text import counted

COLUMNS: Final = ("table", "rows", "digest")
TargetOption = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="URL",
        help="URL of the new, empty database, written as in the configuration: ${NAME} is an environment variable or"
        " a systemd credential.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True)
    example = "audience-sync database copy --to 'postgresql://audience_sync:${DB_PASSWORD}@db/audience_sync'"
    group.command("copy", epilog=f"Example: {example}")(database_copy)
    app.add_typer(group, name="database", help="Move the membership database to SQLite or PostgreSQL.")


def database_copy(context: typer.Context, to: TargetOption, format: FormatOption = Format.TABLE) -> None:
    """Copy the membership database to a new one, and close the old one.

    Copies everything, pending deliveries included, from SQLite or PostgreSQL to SQLite or PostgreSQL, and compares
    both databases. From then on every command refuses the old database, and the new one sends only what was still
    pending. Stop the service first. If the command is interrupted, exactly one of the two databases can be used: run
    the command again. Exit codes: 0 copied, 1 failed, 2 the new database is not empty or the old one was moved
    elsewhere, 5 other processes work on one of the databases.
    """
    from audience_sync.store.database_copy import DatabaseCopy  # noqa: PLC0415 - it imports Alembic

    settings = settings_of(context)
    target = _target(settings, to)
    reach = kill_points.killer(os.environ)
    with runtime.opened(settings, reach=reach, even_moved=True, on_wait=run_output.waiting_for_lock) as source:
        console.print(Text(f"copying {settings.database.url} to {target}"))
        with Progress("membership database") as progress:
            copy = DatabaseCopy(target=target.get_secret_value(), clock=clock(), show=progress.show, reach=reach)
            report = copy.run(source)
    if report.tables:
        print_records((table._asdict() for table in report.tables), COLUMNS, format=format)
        rows = sum(table.rows for table in report.tables)
        console.print(
            f"copied {counted(rows, 'row')} in {counted(len(report.tables), 'table')}; both databases have the same"
            " rows"
        )
    else:
        console.print("this copy was complete already")
    console.print(Text(f"closed {settings.database.url}: every command refuses it now"))
    console.print(
        Text(f"next: set [database] url in {settings.path} to the new database, run `audience-sync check`, then start")
        + Text(" the service; it sends only what was still pending")
    )


def _target(settings: Settings, text: str) -> SecretUrl:
    """Return the URL of --to; a relative file is in the same folder as one in the configuration would be."""
    try:
        return parse_database_url(text, FileContext(settings.path.parent, os.environ))
    except ValueError as error:
        raise typer.BadParameter(f"--to {error}") from None
