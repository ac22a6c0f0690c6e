"""An audience of the file that was synced under another key before: renamed, it would begin anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from audience_sync.config import Audience, Settings
from audience_sync.store.audiences import AudienceRow


def _renamed_from(audience: Audience, known: Sequence[AudienceRow], *, keys: Collection[str]) -> AudienceRow | None:
    """Return what an audience was before it was renamed: an orphan with its definition, else with its name.

    `keys` are those of the file. None for an audience that has completed a sync under its own key.
    """
    if any(row.key == audience.key and row.completed for row in known):
        return None
    orphans = [
        row
        for row in known
        if row.key not in keys and row.state != "retired" and row.computation is audience.computation
    ]
    same = (row for row in orphans if row.definition_hash == audience.definition_hash)
    return next(same, next((row for row in orphans if row.name == audience.name), None))


def rename_warnings(
    settings: Settings, chosen: Iterable[Audience], known: Sequence[AudienceRow]
) -> Iterator[tuple[Audience, str, str]]:
    """Yield those of some audiences that were renamed, what happens to each, and what to do."""
    keys = {audience.key for audience in settings.audiences}
    for audience in chosen:
        if (before := _renamed_from(audience, known, keys=keys)) is not None:
            yield audience, *_warning(audience, before)


def _warning(audience: Audience, before: AudienceRow) -> tuple[str, str]:
    """Return what happens to an audience that was renamed, and what to do."""
    sentence = (
        f"was synced as {before.key} before: a sync sends the new trait {audience.key} to every member, and the"
        f" {before.members:,} members of {before.key} keep the old one"
    )
    hint = f'to continue with the old trait, set key = "{before.key}"; to end it, `audience-sync retract {before.key}`'
    return sentence, hint
