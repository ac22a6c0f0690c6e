"""Segment's Tracking API: events of any Segment library, taken over HTTP and kept until Schematic has them.

A request is answered 200 once its events are committed; a bad event of a batch is refused alone and counted. `server`
listens, `http` is the asynchronous part, `requests` says what a request is, without HTTP, clock or database, and
`intake` commits. `event_files` reads events from files instead.
"""

from __future__ import annotations
