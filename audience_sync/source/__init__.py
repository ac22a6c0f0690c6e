"""Reading a source: the user's own database, with the user's own SQL, and nothing but reading.

`reading` is the room's door; one module per database knows how to open it read only, take one snapshot, stream, and
stop a query that takes too long.
"""

from __future__ import annotations

from audience_sync.source.reading import Rows, open_rows, ping, probe

__all__ = ["Rows", "open_rows", "ping", "probe"]
