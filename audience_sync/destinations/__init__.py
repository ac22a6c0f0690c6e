"""Destinations: rendering and HTTP, without the membership database and the configuration.

`destination_protocol` has the three protocols; all other modules are shared by all destinations. `sync`,
`delivery`, `store`, `checks`, `daemon` and the commands reach a destination through `settings.destination` (the primary
one) or the `Route` of a hook (`settings.hook_route`), which import-linter and `tests/unit/test_destination_seam.py`
keep.

Adding a destination:

1. Make a package `destinations/NAME/` with a `Destination` (name, display name, actions with their presets, limits,
   addresses), a `Renderer` and a `DestinationClient`. `change_events` makes Segment events of changes, `mappings`
   applies mappings to events, `rendered_events` has the idempotency keys, `outcomes` the outcome table of HTTP and
   `http_client` a client with a deadline. The renderer has no I/O. No outcome and no error has the API key.
2. Add it to `DESTINATIONS` in `destination_registry`, whose names no hook may have.
3. In `config`: its defaults (`defaults`), its section (`tables`), its API key (`secrets`), its actions in
   `[[mappings]]` (`mapping_tables`, `types`), and `Settings.section` and `Settings.destination`, which return it.
4. Add an entry to `SERVERS` in `tests/conformance/destination_servers.py`: how to start a local server that stands for
   it. `tests/conformance/test_destinations.py` then tests it; what only this destination does has tests of its own.

Nothing in `sync/` or `store/` changes. Audiences and forwarded events go to the primary destination. The others
subscribe to audiences (`Settings.subscribers`), and get a message for each change along a `Route` of their own:
messages wait in `events` under the name of the route, and `Renderer.forwarded` renders them.
"""
