"""No function and no record guesses what kind a thing is: whoever calls it says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import audience_sync

PACKAGE = Path(audience_sync.__file__).parent
KINDS = {"Action", "ChangeKind", "Computation", "RunKind", "RunState", "TraitType"}
NAMES = {"change_kind", "computation", "level", "run_kind"}


def guesses(tree: ast.AST) -> Iterator[str]:
    """Yield the parameters and fields of a module that are a kind and have a default; None is no kind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            pairs = [
                *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            for argument, default in pairs:
                if is_guess(argument.arg, argument.annotation, default):
                    yield f"{node.name}({argument.arg})"
        elif isinstance(node, ast.ClassDef):
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and not is_constant(one)]
            for field in fields:
                if is_guess(ast.unparse(field.target), field.annotation, field.value):
                    yield f"{node.name}.{ast.unparse(field.target)}"


def is_constant(one: ast.AnnAssign) -> bool:
    """Return whether a name in a class is a constant of the class, and not a field with a default."""
    return any(isinstance(node, ast.Name) and node.id == "ClassVar" for node in ast.walk(one.annotation))


def is_guess(name: str, annotation: ast.expr | None, default: ast.expr | None) -> bool:
    """Tell whether a parameter or field is a kind whose default is one of the kinds."""
    if default is None or (isinstance(default, ast.Constant) and default.value is None):
        return False
    words = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} if annotation else set()
    return name in NAMES or bool(words & KINDS)


def test_nothing_guesses_a_kind() -> None:
    """A computed trait that was taken for an audience, once, had a key that could not be used any more."""
    found = [
        f"{path.relative_to(PACKAGE)}: {guess}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for guess in guesses(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert found == []


def test_a_guess_is_found() -> None:
    """The test above can fail."""
    wrong = (
        "def f(*, a: int = 1, computation: Computation = Computation.AUDIENCE): ...\nclass C:\n    level: str = 'user'"
    )

    assert list(guesses(ast.parse(wrong))) == ["f(computation)", "C.level"]
