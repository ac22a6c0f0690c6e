"""Segment's Tracking API: events of any Segment library, taken over HTTP and kept until Schematic has them.

A request is answered 200 once its events are committed; a bad event of a batch is refused alone and counted. `server`
listens, `api` is the asynchronous part, `requests` (with `bodies`, `keys`, `salvage` and `filling`) says what a request
is, without HTTP, clock or database, and `intake` commits.
"""

from __future__ import annotations
