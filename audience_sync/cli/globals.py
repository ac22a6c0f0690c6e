"""The global options, which every command gets in its context."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `--version` and `--help` need no configuration, and importing it takes most of a start
    from audience_sync.config import Settings


@dataclass
class Globals:
    """The values of the global options."""

    config: Path | None = None

    def path(self) -> Path:
        """Return the configuration file: the one named, or where `config.find_config` finds it."""
        from audience_sync.config import find_config  # noqa: PLC0415

        return find_config(self.config, os.environ)

    def settings(self) -> Settings:
        """Read the configuration.

        Raises:
            ConfigError: there is none, or it is not usable.
        """
        from audience_sync.config import load  # noqa: PLC0415

        return load(self.path(), os.environ)
