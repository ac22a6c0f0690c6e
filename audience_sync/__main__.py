"""The command ``audience-sync``."""

from __future__ import annotations

import sys

from audience_sync.errors import INTERRUPTED


def main() -> None:
    """Run the command; an interrupt while it is still being loaded ends it in order, too."""
    try:
        from audience_sync.cli import main as run  # noqa: PLC0415 - what takes time is in here
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
