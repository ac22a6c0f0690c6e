"""Rules between settings: unique keys, sources that exist, settings that exclude one another.

These checks read the file as it was parsed, not the validated document, so that they report what they see even when
something else in the file is wrong. They pass over values of the wrong type: those are reported already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from audience_sync.config import defaults
from audience_sync.config.problems import Location, Problem, near
from audience_sync.config.types import read_address
from audience_sync.core.keys import MAX_KEY_LENGTH, audience_key

Raw: TypeAlias = Mapping[str, Any]
Entries: TypeAlias = dict[Location, Raw]
Spell: TypeAlias = Callable[[Location], str]
"""Returns the path of another setting, as a sentence can name it."""


def check(raw: Raw, spell: Spell) -> Iterator[Problem]:
    """Yield every problem between the settings of the document."""
    entries = entries_of(raw)
    yield from _excluding(raw, ("schematic",), ("api_key", "api_key_file"))
    yield from _excluding(raw, ("schedule",), ("every", "cron"))
    yield from _ingest(_table(raw, "ingest"))
    for location, entry in entries.items():
        yield from _excluding(entry, (*location, "schedule"), ("every", "cron"))
        yield from _source(raw, entry, location)
        yield from _identity(raw, entry, location)
    yield from _keys(entries, spell)
    yield from _names(entries, spell)
    yield from _hooks(raw, entries, spell)


def entries_of(raw: Raw) -> Entries:
    """Return every audience and every computed trait of the file, by its place: `("audiences", 2)`."""
    return {
        (table, index): entry
        for table in ("audiences", "traits")
        if isinstance(rows := raw.get(table), list)
        for index, entry in enumerate(rows)
        if isinstance(entry, dict)
    }


def source_name(raw: Raw, entry: Raw) -> str | None:
    """Return the name of the source of an audience or computed trait; None: that is a problem of its own."""
    sources = raw.get("sources")
    if not isinstance(sources, dict):
        return None
    name = entry.get("source", next(iter(sources)) if len(sources) == 1 else None)
    return name if isinstance(name, str) and name in sources else None


def _table(raw: Raw, name: str) -> Raw:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def _excluding(raw: Raw, location: Location, pair: tuple[str, str]) -> Iterator[Problem]:
    """Check that the table at `location`, whose last part names it in `raw`, has one of the pair at most."""
    if all(name in _table(raw, str(location[-1])) for name in pair):
        yield Problem((*location, pair[1]), f"cannot be combined with `{pair[0]}`; remove one of them")


def _ingest(ingest: Raw) -> Iterator[Problem]:
    """Check that what listens has a key to know its senders by, and is not open to other machines by mistake."""
    if "listen" not in ingest:
        return
    if ingest.get("write_keys", []) == []:
        sentence = 'missing: `listen` needs at least one key, as in `["${SEGMENT_WRITE_KEY}"]`'
        yield Problem(("ingest", "write_keys"), sentence)
    try:
        address = read_address(ingest["listen"])
    except ValueError:
        return
    if not address.is_loopback and ingest.get("allow_remote", defaults.ALLOW_REMOTE) is False:
        yield Problem(
            ("ingest", "listen"),
            "is reachable from other machines: listen on `127.0.0.1` behind a proxy with TLS, or set "
            "`allow_remote = true`",
        )


def _source(raw: Raw, entry: Raw, location: Location) -> Iterator[Problem]:
    sources = _table(raw, "sources")
    place = (*location, "source")
    if "source" not in entry:
        if not sources:
            yield Problem(place, "missing, and the file does not define any [sources.NAME]")
        elif len(sources) > 1:
            yield Problem(place, f"missing: set it to one of {_list(sources)}")
    elif isinstance(name := entry["source"], str) and name.strip() and name not in sources:
        yield Problem(place, f"there is no [sources.{name}]{near(name, sources)}")


def _identity(raw: Raw, entry: Raw, location: Location) -> Iterator[Problem]:
    identity = raw.get("identity", defaults.IDENTITY)
    keys = entry.get("user_keys")
    has_query = "query" in entry or "query_file" in entry
    if not has_query and isinstance(identity, str) and isinstance(keys, dict) and identity not in keys:
        yield Problem((*location, "user_keys"), f"must include the identity key `{identity}`")


def _keys(entries: Entries, spell: Spell) -> Iterator[Problem]:
    """Check that everything has a key, and that no two have the same."""
    owners: dict[str, Location] = {}
    for location, entry in entries.items():
        name, key = entry.get("name"), entry.get("key")
        place = (*location, "key")
        if "key" not in entry and isinstance(name, str) and name.strip():
            key = audience_key(name)
            if not key:
                yield Problem(place, f"missing: the name {name!r} has no letters or digits to make a key from")
            elif len(key) > MAX_KEY_LENGTH:
                yield Problem(
                    place, f"required here: the key made from the name would exceed {MAX_KEY_LENGTH} characters"
                )
        if not isinstance(key, str) or not key:
            continue
        first = owners.setdefault(key, location)
        if first != location and ("key" in entry or name != entries[first].get("name")):
            both = f"{entries[first].get('name')!r} ({spell(first)}) and {name!r}"
            yield Problem(place, f"{both} have the same key `{key}`; set a different `key` for one of them")


def _names(entries: Entries, spell: Spell) -> Iterator[Problem]:
    """Check that no two have the same name: commands take names too."""
    owners: dict[str, Location] = {}
    for location, entry in entries.items():
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            continue
        first = owners.setdefault(name, location)
        if first != location:
            yield Problem((*location, "name"), f"is also the name of {spell(first)}; rename one of them")


def _hooks(raw: Raw, entries: Entries, spell: Spell) -> Iterator[Problem]:
    """Check that each hook has a name of its own, one kind of secret, and audiences that exist."""
    keys = {key_in(entry) for entry in entries.values()}
    owners: dict[str, Location] = {}
    rows = raw.get("hooks")
    for index, hook in enumerate(rows if isinstance(rows, list) else []):
        if not isinstance(hook, dict):
            continue
        location: Location = ("hooks", index)
        if isinstance(name := hook.get("name"), str) and owners.setdefault(name, location) != location:
            yield Problem((*location, "name"), f"is also the name of {spell(owners[name])}; rename one of them")
        if "secret" in hook and "secret_file" in hook:
            yield Problem((*location, "secret_file"), "cannot be combined with `secret`; remove one of them")
        if "secret" not in hook and "secret_file" not in hook:
            yield Problem((*location, "secret"), 'missing: requests are signed with it, as in "${HOOK_SECRET}"')
        named = hook.get("audiences")
        for place, key in enumerate(named if isinstance(named, list) else []):
            if isinstance(key, str) and key not in keys:
                known = sorted(one for one in keys if one is not None)
                yield Problem((*location, "audiences", place), f"there is no audience `{key}`{near(key, known)}")


def key_in(entry: Raw) -> str | None:
    """Return the key of an audience or computed trait, given or made of its name; None: it has no readable one."""
    key, name = entry.get("key"), entry.get("name")
    if isinstance(key, str):
        return key
    return audience_key(name) if key is None and isinstance(name, str) else None


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names)
