"""A member as one line of text: `key`, `key⇥identifiers` or `key⇥identifiers⇥value`.

Keys hold no control character (`rows.py` rejects those) and JSON never writes one raw, so lines are joined, split,
compared and hashed as they are. Where all members have one identifier besides the key, of one name, it stands bare:
without its JSON, which is the same for all of them.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from audience_sync.core.model import Member

GAP = "\t"  # in a template, the place of the identifier


class Wrapping(NamedTuple):
    """The JSON around a bare identifier; an identifier that JSON would change is never bare."""

    before: str
    after: str

    @classmethod
    def of(cls, template: str | None) -> Self | None:
        """Return the wrapping of a template."""
        return None if template is None else cls(*template.split(GAP))

    @property
    def template(self) -> str:
        """Return the JSON with a tab in the place of the identifier."""
        return f"{self.before}{GAP}{self.after}"


def whole(identifiers: str | None, wrapping: Wrapping | None) -> str | None:
    """Return identifiers as JSON, whether they are bare or not."""
    if identifiers is None or wrapping is None or '"' in identifiers:
        return identifiers
    return f"{wrapping.before}{identifiers}{wrapping.after}"


def bare(identifiers: str | None, wrapping: Wrapping | None) -> str | None:
    """Return identifiers without the JSON around a single one; as they are if there are others, or JSON changes it."""
    if identifiers is None or wrapping is None:
        return identifiers
    text = identifiers.removeprefix(wrapping.before).removesuffix(wrapping.after)
    is_bare = '"' not in text and "\\" not in text and whole(text, wrapping) == identifiers
    return text if is_bare else identifiers


def to_line(member: Member) -> str:
    """Return the line of a member; the inverse of `from_line`."""
    if member.value is not None:
        return f"{member.profile_key}\t{member.identifiers or ''}\t{member.value}"
    return member.profile_key if member.identifiers is None else f"{member.profile_key}\t{member.identifiers}"


def from_line(line: str, wrapping: Wrapping | None = None) -> Member:
    """Return the member of a line, whose identifiers may be bare."""
    key, separator, rest = line.partition("\t")
    if not separator:
        return Member(key)
    identifiers, _, value = rest.partition("\t")
    return Member(key, whole(identifiers or None, wrapping), value or None)
