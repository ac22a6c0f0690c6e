"""Make the table of words that shells complete from the commands.

`python -m tests.completion_words --record` writes it; without `--record`, the module prints it.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from audience_sync.cli.main import COMMANDS, load
from audience_sync.cli.shell_completion import AUDIENCE, FLAG, WORDS


def completion_words() -> str:
    """Return the table as JSON, with a line for each parameter."""
    whole = json.dumps({name: _words(load(name)) for name in COMMANDS}, ensure_ascii=False)
    return re.sub(r'(\{"options"|"(?:[a-z]+)": \{"help")', r"\n\1", whole) + "\n"


def _words(command: Any) -> dict[str, Any]:
    first = (command.help or "").partition("\n\n")[0].replace("\n", " ")
    inner = getattr(command, "commands", None)
    if inner is not None:
        return {"help": first, "commands": {name: _words(one) for name, one in inner.items()}}
    context = command.make_context(command.name, [], resilient_parsing=True)
    return {"help": first, "parameters": [_parameter(one, context) for one in command.params]}


def _parameter(parameter: Any, context: Any) -> dict[str, Any]:
    is_option = parameter.param_type_name == "option"
    return {
        "options": [*parameter.opts, *parameter.secondary_opts] if is_option else [],
        "help": (parameter.help or "").partition(". ")[0],
        "kind": _kind(parameter, context),
        "many": parameter.nargs == -1 or getattr(parameter, "multiple", False),
    }


def _kind(parameter: Any, context: Any) -> str | list[str]:
    if getattr(parameter, "is_flag", False):
        return FLAG
    if "AUDIENCE" in (parameter.metavar or ""):
        return AUDIENCE
    choices = [one.value for one in parameter.shell_complete(context, "") if one.type == "plain"]
    return choices or ""


def main() -> None:
    """Print the table, or write it."""
    if sys.argv[1:] == ["--record"]:
        WORDS.write_text(completion_words(), encoding="utf-8")
    else:
        sys.stdout.write(completion_words())


if __name__ == "__main__":
    main()
