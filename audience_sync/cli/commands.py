"""The table of commands: the module of each command and its line in `--help`. A module is imported when it is needed.

The lines repeat the first sentence of each command's docstring; a test compares them.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Listed(NamedTuple):
    """A command in the table: its module in `audience_sync.cli`, and its line in the list of commands."""

    module: str
    help: str


SECTIONS: Final[dict[str, dict[str, Listed]]] = {
    "Set up": {
        "init": Listed("setup", "Write an example configuration and create the membership database."),
        "check": Listed("setup", "Check the configuration, databases, audiences and Schematic."),
        "migrate": Listed("setup", "Upgrade the membership database to this version, or create it."),
        "service": Listed("setup", "Print the systemd unit, with the commands that install it."),
    },
    "Sync and deliver": {
        "sync": Listed("syncing", "Evaluate audiences and computed traits, and send what changed."),
        "plan": Listed("syncing", "Show what a sync would change and send; change nothing."),
        "approve": Listed("syncing", "Apply the plan of a blocked run, and send it."),
        "retract": Listed("syncing", "End an audience or computed trait, and retire its key."),
        "deliver": Listed("delivering", "Deliver everything pending, then exit."),
        "run": Listed("delivering", "Run as a service: sync on schedule and deliver continuously."),
        "forward": Listed("forwarding", "Send a file of Segment events through the mappings."),
    },
    "Inspect": {
        "status": Listed("status", "Show audiences, pending deliveries, blocked runs and processes."),
        "audiences": Listed("status", "List audiences and computed traits, with their state."),
        "members": Listed("inspecting", "List the members of an audience, now or at an earlier time."),
        "profile": Listed("inspecting", "Show everything about one user."),
        "runs": Listed("inspecting", "List runs, newest first."),
        "changes": Listed("inspecting", "List who entered, exited or was updated, newest runs first."),
        "rejections": Listed("inspecting", "List source rows that were rejected or changed, and why."),
        "explain": Listed("explaining", "Explain why a user is or is not in an audience."),
        "preview": Listed("explaining", "Count the members of an audience, show a sample, store nothing."),
        "events": Listed("events", "List forwarded events that Schematic has not accepted."),
    },
    "Operate": {
        "dead": Listed("operating", "List, retry or discard what Schematic refused."),
        "pause": Listed("operating", "Stop the syncs and deliveries of an audience."),
        "resume": Listed("operating", "Continue the syncs and deliveries of a paused audience."),
        "forget": Listed("operating", "Erase one user from the membership database."),
    },
    "Try it out": {
        "demo": Listed("trying", "Sync a small example shop into a local Schematic."),
        "sandbox": Listed("trying", "Run a local Schematic until Ctrl-C."),
    },
}
COMMANDS: Final = {name: listed for section in SECTIONS.values() for name, listed in section.items()}


class CommandTable(TyperGroup):
    """The top-level command: lists its commands from the table and imports the one that runs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name) for name in COMMANDS}  # names alone, for "Did you mean …?"

    def get_command(self, _context: Any, name: str) -> TyperCommand | TyperGroup | None:
        """Import a command and return it; None when there is none of this name."""
        return load(name) if name in COMMANDS else None

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
        for argument in (one for one in command.params if one.param_type_name == "argument"):
            argument.display_type_rich = _no_type
    return found


def _no_type(**_: object) -> None:
    """Show no Python type next to the name of an argument in help."""
