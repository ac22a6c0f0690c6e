"""What must be true between settings: keys that differ, sources that exist, settings that exclude one another.

These checks read the file as it was parsed, not the validated document, so that they report what they see even when
something else in the file is wrong. They pass over values of the wrong type: those are reported already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from audience_sync.config.addresses import read_address
from audience_sync.config.document import DEFAULT_IDENTITY
from audience_sync.config.problems import Location, Problem, near
from audience_sync.core.naming import audience_key

Raw: TypeAlias = Mapping[str, Any]

LONGEST_KEY = 255


def check(raw: Raw) -> Iterator[Problem]:
    """Yield every problem between the settings of the file."""
    audiences = _audiences(raw)
    yield from _excluding(raw, ("schematic",), ("api_key", "api_key_file"))
    yield from _excluding(raw, ("schedule",), ("every", "cron"))
    yield from _ingest(_table(raw, "ingest"))
    for index, audience in audiences.items():
        yield from _excluding(audience, ("audiences", index, "schedule"), ("every", "cron"))
        yield from _source(raw, audience, index)
        yield from _identity(raw, audience, index)
    yield from _keys(audiences)
    yield from _names(audiences)


def _audiences(raw: Raw) -> dict[int, Raw]:
    entries = raw.get("audiences")
    return {i: one for i, one in enumerate(entries) if isinstance(one, dict)} if isinstance(entries, list) else {}


def _table(raw: Raw, name: str) -> Raw:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _excluding(raw: Raw, location: Location, pair: tuple[str, str]) -> Iterator[Problem]:
    """Check that the table at `location`, whose last part names it in `raw`, has one of the pair at most."""
    if all(name in _table(raw, str(location[-1])) for name in pair):
        yield Problem((*location, pair[1]), f"cannot stand beside `{pair[0]}`: keep one of them")


def _ingest(ingest: Raw) -> Iterator[Problem]:
    """Check that what listens has a key to know its senders by, and is not open to other machines by mistake."""
    if "listen" not in ingest:
        return
    if ingest.get("write_keys", []) == []:
        sentence = 'missing: with `listen` there must be one, as in `["${SEGMENT_WRITE_KEY}"]`'
        yield Problem(("ingest", "write_keys"), sentence)
    try:
        address = read_address(ingest["listen"])
    except ValueError:
        return
    if not address.is_loopback and ingest.get("allow_remote", False) is False:
        yield Problem(
            ("ingest", "listen"),
            "is an address that other machines reach: listen on `127.0.0.1` behind a proxy that speaks TLS, or set "
            "`allow_remote = true`",
        )


def _source(raw: Raw, audience: Raw, index: int) -> Iterator[Problem]:
    sources = _table(raw, "sources")
    location = ("audiences", index, "source")
    if "source" not in audience:
        if not sources:
            yield Problem(location, "missing, and the file has no [sources.NAME]")
        elif len(sources) > 1:
            yield Problem(location, f"missing: it is one of {_list(sources)}")
    elif isinstance(name := audience["source"], str) and name.strip() and name not in sources:
        yield Problem(location, f"there is no [sources.{name}]{near(name, sources)}")


def _identity(raw: Raw, audience: Raw, index: int) -> Iterator[Problem]:
    identity = raw.get("identity", DEFAULT_IDENTITY)
    keys = audience.get("user_keys")
    if isinstance(identity, str) and isinstance(keys, dict) and identity not in keys:
        yield Problem(("audiences", index, "user_keys"), f"must contain the identity `{identity}`")


def _keys(audiences: Mapping[int, Raw]) -> Iterator[Problem]:
    """Check that every audience has a key, and that no two have the same."""
    owners: dict[str, int] = {}
    for index, audience in audiences.items():
        name, key = audience.get("name"), audience.get("key")
        location = ("audiences", index, "key")
        if "key" not in audience and isinstance(name, str) and name.strip():
            key = audience_key(name)
            if not key:
                yield Problem(location, f"missing: the name {name!r} has no letter and no digit to make a key of")
            elif len(key) > LONGEST_KEY:
                yield Problem(location, f"missing: the key made of the name is longer than {LONGEST_KEY} characters")
        if not isinstance(key, str) or not key:
            continue
        first = owners.setdefault(key, index)
        if first != index:
            both = f"{audiences[first].get('name')!r} (audiences[{first}]) and {name!r}"
            yield Problem(location, f"{both} have the same key `{key}`: give one of them another `key`")


def _names(audiences: Mapping[int, Raw]) -> Iterator[Problem]:
    """Check that no two audiences with keys of their own have the same name: commands take names too."""
    owners: dict[str, int] = {}
    for index, audience in audiences.items():
        name = audience.get("name")
        if not isinstance(name, str) or not name.strip():
            continue
        first = owners.setdefault(name, index)
        if first != index and audience.get("key") != audiences[first].get("key"):
            yield Problem(("audiences", index, "name"), f"is the name of audiences[{first}] too")


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names)
