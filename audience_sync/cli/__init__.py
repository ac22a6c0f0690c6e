"""The command line: one module for each kind of command; each parses, calls `runtime`, and prints.

Data goes to stdout, everything else to stderr. Errors leave as one sentence with the exit code of their class.
"""

from __future__ import annotations

from audience_sync.cli.main import main

__all__ = ["main"]
