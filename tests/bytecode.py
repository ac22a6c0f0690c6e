"""Test modules with rewritten assertions, shared by the workers of a run.

Unless an earlier run has left the result, pytest rewrites every test module in every worker, which takes a tenth of the
whole run. So each worker rewrites a part of the modules first, and reads the others from where its siblings put them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.assertion import rewrite

TESTS = Path(__file__).parent


def share(config: pytest.Config, folder: Path, *, part: int, parts: int) -> None:
    """Rewrite a part of the test modules into a folder, and have pytest look for all of them there."""

    def place(file_path: Path) -> Path:
        return folder / file_path.relative_to(file_path.anchor).parent

    state = config.stash[rewrite.assertstate_key]
    for path in sorted(TESTS.rglob("*.py"))[part::parts]:
        place(path).mkdir(parents=True, exist_ok=True)
        stat, code = rewrite._rewrite_test(path, config)
        rewrite._write_pyc(state, code, stat, place(path) / f"{path.stem}{rewrite.PYC_TAIL}")
    rewrite.get_cache_dir = place
