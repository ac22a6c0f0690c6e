"""Run the command ``audience-sync``."""

from __future__ import annotations

import gc
import os
import signal
import sys

from audience_sync.errors import INTERRUPTED

YOUNG_OBJECTS = 100_000
"""New objects between two collections: more than a page of rows for each worker. Imports and rows make few cycles."""


def main() -> None:
    """Run the command. Ctrl-C during start-up exits as it does later.

    Files that the program creates are private to its user: databases and temporary files hold personal data.
    """
    os.umask(0o077)
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    if "run" in sys.argv[1:]:  # the service takes SIGHUP for a reload; one that comes during start-up waits
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        from audience_sync.cli import main as run  # noqa: PLC0415 - inside the try block
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
