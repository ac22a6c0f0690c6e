"""Cases in which a database once disagreed with the evaluator, in their smallest form."""

from __future__ import annotations

from tests.reference.worlds import Case

REGRESSIONS: dict[str, Case] = {}
