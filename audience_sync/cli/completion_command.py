"""The command completion, which prints what makes a shell complete the program's arguments."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from audience_sync.cli.main import NAME
from audience_sync.cli.shell_completion import script


class Shell(StrEnum):
    """The shells that can complete the program's arguments."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example: audience-sync completion bash >> ~/.bashrc")(completion)


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="Your shell: bash, zsh or fish.")],
) -> None:
    """Print the script with which your shell completes commands.

    It also completes options, their choices, and the keys of audiences in the configuration file. Append it to the file
    that your shell reads at its start: ~/.bashrc, ~/.zshrc (after compinit), or ~/.config/fish/config.fish. The script
    stays valid after an upgrade.
    """
    typer.echo(script(shell.value, NAME))
