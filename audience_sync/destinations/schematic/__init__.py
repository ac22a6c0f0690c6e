"""The Schematic destination: a Segment event goes in, the bodies for Schematic come out, or the reasons why none do.

An event passes the `integrations` object, then every enabled mapping: its trigger says whether, its fields say what,
and its action makes the body. Rendering knows nothing of time, databases or the network; `schematic_client` posts.
"""
