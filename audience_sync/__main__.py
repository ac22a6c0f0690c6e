"""The command ``audience-sync``."""

from __future__ import annotations

from audience_sync.cli import main

if __name__ == "__main__":
    main()
