"""The choices a made-up case consists of, all from one seed: every word of it is then as likely as it should be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

_Option = TypeVar("_Option")


class Choices:
    """Makes one choice after the other."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, end: int) -> int:
        """Return a number from 0, less than `end`."""
        return self._random.randrange(end)

    def one(self, options: Sequence[_Option]) -> _Option:
        """Return one of the options."""
        return options[self.below(len(options))]

    def chance(self, outcomes: int) -> bool:
        """Say yes once in so many outcomes."""
        return self.below(outcomes) == 0
