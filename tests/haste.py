"""A command that delivers what comes slowly through a pipe after a moment: in production it gathers it for seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.commands import Command, _run


class HastyCommand(Command):
    """A command that runs, and gathers for a tenth of a second."""

    @staticmethod
    def target() -> Callable[[list[str], dict[str, str], Sequence[str], str], None]:
        """Return the function that the process runs."""
        return _hurry


def _hurry(words: list[str], environment: dict[str, str], streams: Sequence[str], folder: str) -> None:
    from audience_sync.tracking_api import event_files  # noqa: PLC0415 - the process that forks has imported it

    event_files.LONGEST = 0.1  # type: ignore[misc]  # in this process alone
    _run(words, environment, streams, folder)
