"""The command line: each module has the commands of one kind, which parse arguments, call `runtime` and print.

Data goes to stdout, and everything else to stderr. An error prints one sentence and exits with the code of its class.
"""

from __future__ import annotations

from audience_sync.cli.main import main

__all__ = ["main"]
