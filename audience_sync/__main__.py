"""The command ``audience-sync``."""

from __future__ import annotations

import os
import sys

from audience_sync.errors import INTERRUPTED


def main() -> None:
    """Run the command; an interrupt while it is still being loaded ends it in order, too.

    Whatever it creates is for its user alone: people's data pass through databases and temporary files.
    """
    os.umask(0o077)
    try:
        from audience_sync.cli import main as run  # noqa: PLC0415 - what takes time is in here
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
