"""The optional packages of each feature, and the command that installs them.

The product is installed from a clone or a wheel, so `pip install 'audience-sync[postgres]'` finds nothing on PyPI.
Hints therefore name the packages themselves, with the current Python.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Final

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "postgres": ("psycopg[binary]>=3.2",),
    "mysql": ("pymysql>=1.1",),
    "ingest": ("starlette>=0.40", "uvicorn>=0.34"),
}
"""The extras of pyproject.toml; a test compares them."""


def install_command(packages: Sequence[str]) -> str:
    """Return the shell command that installs packages next to this program."""
    return shlex.join([sys.executable, "-m", "pip", "install", *packages])


def missing(error: ImportError) -> str:
    """Return the name of the module that is missing, or why one that is there cannot be imported, in one line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name
    return str(error).strip().partition("\n")[0].rstrip(".:")
