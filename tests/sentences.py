"""Collect every sentence that the program says to people, so that a reviewer can read all of them in one sitting.

`python -m tests.sentences` prints how `sentences.txt` differs from the code
and exits with 1 if there are any. `python -m tests.sentences --record` writes the file anew. A sentence is a string of
three words or more in `audience_sync` that is neither a docstring nor SQL; an expression in it is shown as `{…}`. The
help of each command is its docstring, and belongs here, too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import TypeGuard

from audience_sync.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).with_suffix(".txt")
_SQL = re.compile(
    r"^\W*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|WITH|FROM|WHERE|AND|OR|ON|ORDER|GROUP|CASE|COALESCE|UNION|SET"
    r"|PRAGMA|ATTACH|VALUES|NOT EXISTS|JOIN|LEFT|COPY|DECLARE|FETCH|LOCK|BEGIN)\b"
    r"|\b(?:SELECT|FROM|WHERE|VALUES|IS NULL|IS NOT NULL|THEN|END|RETURNING|FOR UPDATE|BETWEEN|AS \{)"
    r"|(?:=|<|>|IN \() ?:\w|^[\w.{}…]+(?:, [\w.{}…]+)+$|-> ?'|json_\w+\(|substr\(| IN \(\{…\}\)"
)
_WORD = re.compile(r"[A-Za-z]{2,}")
_FEWEST_WORDS = 3


def sentences() -> str:
    """Return all sentences, by file and in the order in which they stand there."""
    parts = []
    for path in sorted((ROOT / "audience_sync").rglob("*.py")):
        if path.stem.endswith("_dialect") or path.stem == "text_conversions":
            continue  # SQL alone
        found = list(dict.fromkeys(_of_file(path)))
        if found:
            parts.append("\n".join([f"## {path.relative_to(ROOT / 'audience_sync')}", "", *found]))
    return "\n\n".join(parts) + "\n"


def _of_file(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    help_texts = {id(node.body[0]): node for node in tree.body if _is_command(node, path)}
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in _in_order(tree):
        if id(node) in help_texts:
            yield from _kept(ast.get_docstring(help_texts[id(node)]) or "")
        elif id(node) in inside or id(node) in documentation:
            continue
        elif isinstance(node, ast.JoinedStr):
            yield from _kept(_text(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _kept(node.value)


def _is_command(node: ast.AST, path: Path) -> TypeGuard[ast.FunctionDef]:
    """Return whether a function is a command, whose docstring is its help."""
    return isinstance(node, ast.FunctionDef) and node.name in COMMANDS and COMMANDS[node.name].module == path.stem


def _in_order(tree: ast.Module) -> list[ast.expr | ast.Expr]:
    """Return the strings of a file, and the statements that are docstrings, in the order in which they stand there."""
    placed = [node for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr | ast.Expr)]
    return sorted(placed, key=lambda node: (node.lineno, node.col_offset))


def _text(node: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in node.values)


def _kept(text: str) -> Iterator[str]:
    line = " ".join(text.split())
    if len(_WORD.findall(line)) >= _FEWEST_WORDS and " " in line and not _SQL.search(line):
        yield line


def main() -> None:
    """Print the differences, or record all sentences."""
    now = sentences()
    if sys.argv[1:] == ["--record"]:
        RECORD.write_text(now, encoding="utf-8")
    elif changed := list(unified_diff(RECORD.read_text(encoding="utf-8").splitlines(), now.splitlines(), n=0)):
        print("\n".join(changed))
        raise SystemExit(1)


if __name__ == "__main__":
    main()
