"""Segment's Tracking API: events of any Segment library, taken over HTTP and kept until Schematic has them.

A request is taken whole or not at all, and is answered 200 once every event of it is committed. `server` listens,
`api` is the one asynchronous place of the program, `requests` (with `bodies`, `keys` and `filling`) says what a request
is, without HTTP, clock or database, and `intake` commits.
"""

from __future__ import annotations
