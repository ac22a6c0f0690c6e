"""The setup commands: init, check, migrate, schema, service."""

from __future__ import annotations

import os
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from rich.text import Text

from audience_sync import runtime
from audience_sync.checks.finding import Finding, exit_code
from audience_sync.cli import run_output
from audience_sync.cli.console import Format, FormatOption, Sheet, print_result
from audience_sync.cli.context import clock, console, out, settings_of
from audience_sync.cli.main import Globals
from audience_sync.cli.systemd_units import HIDDEN, NAME, Unit
from audience_sync.config import Settings, load, secret_names
from audience_sync.config.example_file import example
from audience_sync.config_path import CONFIG_PATHS, CONFIG_VARIABLE
from audience_sync.core.model import Severity
from audience_sync.core.text import counted
from audience_sync.errors import ConfigError

COLUMNS = ("check", "subject", "state", "message", "remedy")
MARKS: Final = {Severity.OK: ("✓", "green"), Severity.WARNING: ("!", "yellow"), Severity.ERROR: ("✗", "red")}
SERVICE_CONFIG: Final = Path("/etc/audience-sync/config.toml")


def user_name(text: str) -> str:
    """Return a user name that is valid in a systemd unit."""
    if re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", text) is None:
        raise typer.BadParameter(f"{text!r} is not a valid user name")
    return text


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command, example_line in (
        (init, "audience-sync init && $EDITOR config.toml"),
        (check, "audience-sync check --format json | jq 'select(.state != \"ok\")'"),
        (migrate, "audience-sync migrate"),
        (schema, "audience-sync schema > audience-sync.schema.json"),
        (service, "audience-sync service | sudo tee /etc/systemd/system/audience-sync.service"),
    ):
        app.command(epilog=f"Example: {example_line}")(command)


def init(context: typer.Context, format: FormatOption = Format.TABLE) -> None:
    """Write an example configuration and create the membership database.

    The example explains every setting and is written to --config (default: ./config.toml). Existing files and
    databases are kept, so it is safe to run this again.
    """
    path = _place(context)
    if path.exists():
        _say(f"kept {path}")
        fresh = False
    else:
        _write_example(path)
        _say(f"wrote {path}, readable only by you")
        fresh = True
    settings = load(path, os.environ)
    if (older := runtime.older_schema(settings)) is not None:
        raise older  # only a person runs `migrate`
    created = runtime.create(settings)
    before, after = created.before, created.after
    where = settings.database.url
    made = {"config": str(path), "config_written": fresh, "database": str(where)}
    print_result({**made, "schema_before": before, "schema": after}, format=format)
    if before is None:
        _say(f"created the membership database {where} (schema {after})")
    else:
        _say(f"the membership database {where} exists and is up to date (schema {after})")
    _next_steps(path, fresh=fresh, named=context.ensure_object(Globals).config is not None)


def migrate(
    context: typer.Context,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Do not back up a SQLite file first.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Upgrade the membership database to this version, or create it.

    Stop the service first. A migration cannot be undone, so a SQLite file is backed up first: the backup is next to it,
    named after its schema and the time, and never deleted by audience-sync. For PostgreSQL, make a backup with pg_dump.
    A migration that fails or is interrupted changes nothing.
    """
    settings = settings_of(context)
    where, is_sqlite = settings.database.url, settings.database.url.get_secret_value().get_backend_name() == "sqlite"
    if runtime.older_schema(settings) is not None and (no_backup or not is_sqlite):
        console.print("a migration cannot be undone: to go back, restore the backup that you made before it")
    created = runtime.create(settings, backup_at=None if no_backup else clock().now())
    before, after = created.before, created.after
    backup = None if created.backup is None else str(created.backup)
    print_result({"database": str(where), "schema_before": before, "schema": after, "backup": backup}, format=format)
    if created.can_shrink_now and before is not None:
        _say(f"rewrote {where}: from now on the file shrinks when data is deleted")
    if before == after:
        _say(f"nothing to do: {where} has the current schema {after}")
    elif before is None:
        _say(f"created the membership database {where} (schema {after})")
    else:
        _say(f"migrated {where} from schema {before} to {after}")
    if created.backup is not None and before is not None:
        _way_back(created.backup, settings, before)


def _way_back(backup: Path, settings: Settings, revision: str) -> None:
    """Print how to undo a migration."""
    from audience_sync.store.migration import version_of  # noqa: PLC0415 - it imports Alembic

    file = Path(settings.database.url.get_secret_value().database or "").resolve()
    quoted_backup, quoted_file = shlex.quote(str(backup)), shlex.quote(str(file))
    wal, shm = (shlex.quote(f"{file}-{kind}") for kind in ("wal", "shm"))
    _say(f"backup: {backup}")
    _say(
        f"to go back: stop the service, install {version_of(revision)}, then run"
        f" `rm -f {wal} {shm} && cp -p {quoted_backup} {quoted_file}`"
    )
    console.print("backups are never deleted: delete this one when you no longer need it")


def check(
    context: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every membership with what the last sync wrote.")
    ] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Check the configuration, databases, audiences and Schematic.

    Reports every problem it finds, changes nothing and sends no events, only an empty batch to `capture_url`. Does not
    read column values: use `plan` for that. Exit codes: 0 no errors (warnings are possible), 1 some checks failed, 2
    the configuration is invalid, 6 Schematic refused the API key.
    """
    from audience_sync.checks.check_all import check as check_everything  # noqa: PLC0415 - what it needs is large

    found: list[Finding] = []
    sheet = Sheet(COLUMNS, format=format)
    named = context.ensure_object(Globals).config
    for finding in check_everything(named, os.environ, clock(), deep=deep):
        found.append(finding)
        if format is Format.TABLE:
            _show(finding)
        else:
            sheet.add({name: value for name, value in asdict(finding).items() if name in COLUMNS})
    if format is Format.TABLE:
        _conclude(found)
    raise typer.Exit(exit_code(found))


def schema() -> None:
    """Print the JSON schema of the configuration file, for editors.

    Editors with support for TOML, such as those that use Taplo or Even Better TOML, then complete settings, show their
    descriptions and mark mistakes. The schema checks single settings; `check` also checks what depends on several.
    """
    from audience_sync.config.json_schema import configuration_schema  # noqa: PLC0415 - only this command needs it

    typer.echo(orjson.dumps(configuration_schema(), option=orjson.OPT_INDENT_2).decode())


def service(
    context: typer.Context,
    user: Annotated[
        str | None,
        typer.Option(parser=user_name, metavar="NAME", help="User to run the service as (default: a dynamic user)."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the unit for a one-off sync instead.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Print the systemd unit with the commands that install it.

    The unit runs this installation of audience-sync with the configuration from --config (default:
    /etc/audience-sync/config.toml). It has a LoadCredential= line for every secret that the configuration refers to
    as ${NAME}: print it again after adding one.
    """
    command = _own_command()
    config = (context.ensure_object(Globals).config or SERVICE_CONFIG).absolute()
    unit = Unit(command, config, user, secret_names(config) if config.exists() else None)
    text = unit.once() if once else unit.service()
    if format is Format.TABLE:
        typer.echo(text, nl=False)
    else:
        place = f"/etc/systemd/system/{NAME}{'-once' if once else ''}.service"
        print_result({"path": place, "config": str(unit.config), "user": user, "unit": text}, format=format)
    if unit.secrets is None:
        run_output.note(
            f"{config} does not exist, so the unit has only the API key's credential; when the file exists, print the"
            " unit again"
        )
    for path in (Path(command[0]), Path(__file__).parent.parent, unit.config):
        if str(path).startswith(HIDDEN):
            run_output.note(
                f"the service cannot read {path}: it has no access to home directories or /tmp. Install in"
                " /opt/audience-sync (`python3 -m venv /opt/audience-sync`) and keep the configuration in"
                " /etc/audience-sync"
            )


def _place(context: typer.Context) -> Path:
    """Return the configuration file to keep or to write: the named or found one, else ./config.toml."""
    found = context.ensure_object(Globals)
    with suppress(ConfigError):
        return found.path().absolute()
    named = found.config or (Path(text) if (text := os.environ.get(CONFIG_VARIABLE)) else CONFIG_PATHS[0])
    return named.absolute()


def _write_example(path: Path) -> None:
    text = example().read_text(encoding="utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", hint="choose another path: audience-sync --config FILE init"
        ) from None


def _next_steps(path: Path, *, fresh: bool, named: bool) -> None:
    program = f"{NAME} --config {shlex.quote(str(path))}" if named else NAME
    begin = [
        (f"edit {path}", "set the url of your source and the SQL of your first audience"),
        ("export SCHEMATIC_API_KEY=…", "the secret key of your Schematic environment (never stored in the file)"),
    ]
    steps = [
        *(begin if fresh else ()),
        (f"{program} check", "verify the connections and the configuration"),
        (f"{program} plan", "show what a sync would send"),
        (f"{program} sync", "send it"),
    ]
    width = max(len(step) for step, _ in steps)
    console.print("next:")
    for step, why in steps:
        console.print(Text(f"  {step:<{width}}  {why}"), hang=width + 2)
    if fresh:
        console.print("(the example's database does not exist; to try a complete example, run `audience-sync demo`)")


def _show(finding: Finding) -> None:
    """Print a finding with its state: a symbol on a terminal, a word elsewhere."""
    mark, style = MARKS[finding.state] if out.is_seen else (f"{finding.state:<8}", "")
    indent = " " * (len(mark) + 1)
    place = finding.subject.removeprefix("sqlite:///")
    is_named = place.startswith("/") and place in finding.message  # do not show a path twice
    subject = finding.check if is_named else f"{finding.check} {finding.subject}"
    lines = f"{subject}: {finding.message}".splitlines()
    if finding.remedy:
        lines.append(f"hint: {finding.remedy}")
    for number, line in enumerate(lines):
        if number == 0:
            out.print(Text.assemble((mark, style), " ", line), hang=len(indent))
        else:
            out.print(Text(indent + line))


def _conclude(found: list[Finding]) -> None:
    errors, warnings = (sum(one.state is state for one in found) for state in (Severity.ERROR, Severity.WARNING))
    if errors:
        console.print(f"{errors} of {counted(len(found), 'check')} failed, {counted(warnings, 'warning')}")
    else:
        console.print("all checks passed" if not warnings else f"all checks passed, {counted(warnings, 'warning')}")


def _own_command() -> tuple[str, ...]:
    """Return the command that starts this program, with an absolute path."""
    script = Path(sys.executable).with_name(NAME)
    return (str(script),) if script.is_file() else (sys.executable, "-m", "audience_sync")


def _say(sentence: str) -> None:
    console.print(Text(sentence))
