"""The table of a hook: what is wrong with it is said without its secrets, and its secrets are only looked up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audience_sync.config import HookTable, load, resolve_hook
from audience_sync.errors import ConfigError
from tests.factories import AUDIENCE_KEY, config_text

HOOK = '[[hooks]]\nname = "crm"\nurl = "https://crm.example.com/h"\nsecret = "${CRM}"\n'
LONG = "0123456789abcdef"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a configuration with these tables behind an audience."""

    def written(more: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(config_text(more=more), encoding="utf-8")
        return path

    return written


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HOOK.replace('"${CRM}"', f'"{LONG}"'), "hooks[0].secret: must not contain the secret itself"),
        (HOOK.replace('secret = "${CRM}"\n', ""), "hooks[0].secret: missing: requests are signed with it"),
        (HOOK + 'secret_file = "x"\n', "hooks[0].secret_file: cannot be combined with `secret`; remove one of them"),
        (HOOK.replace('"${CRM}"', '["${A}", "${B}", "${C}"]'), "hooks[0].secret: must be a reference such as"),
        (
            HOOK.replace("https://crm.example.com", "https://169.254.169.254"),
            "hooks[0].url: must not lead to a link-local",
        ),
        (
            HOOK.replace(".com/h", ".com/h?token=${T}"),
            "hooks[0].url: must not contain `${NAME}`, which is not replaced",
        ),
        (HOOK.replace("https:", "http:"), "hooks[0].url: must begin with `https://`"),
        (HOOK.replace('"crm"', '"schematic"'), "hooks[0].name: must be at most 40 lower-case letters"),
        (HOOK + HOOK, "hooks[1].name: is also the name of hooks[0]; rename one of them"),
        (HOOK + 'audiences = ["gone"]\n', "hooks[0].audiences[0]: there is no audience `gone`"),
        (HOOK + 'audiences = "gone"\n', 'hooks[0].audiences: must be a list of keys, as in `["big_spenders"]`'),
        (HOOK + 'start = "later"\n', "hooks[0].start: must be one of `now`, `members`"),
        (HOOK + 'headers = { Host = "${X}" }\n', "hooks[0].headers.Host: cannot be set: the program sets it"),
        (HOOK + 'headers = { Audience-Sync-Signature = "${X}" }\n', "Audience-Sync-Signature: cannot be set"),
        (HOOK + f'headers = {{ X = "{LONG}" }}\n', "hooks[0].headers.X: must not contain the secret itself"),
        (HOOK + "batch_size = 101\n", "hooks[0].batch_size: must be at most 100"),
        (HOOK + "sekret = 1\n", "hooks[0].sekret: unknown setting (did you mean `secret`?)"),
    ],
)
def test_problems(write: Callable[[str], Path], text: str, problem: str) -> None:
    """Each has its place and the remedy, and repeats no value that may be a secret."""
    with pytest.raises(ConfigError) as caught:
        load(write(text), {})

    assert problem in str(caught.value)
    assert LONG not in str(caught.value)


def test_subscribers(write: Callable[[str], Path]) -> None:
    """A hook without audiences gets all of them; `start` says whether it begins with the members."""
    some = HOOK.replace('"crm"', '"some"') + f'start = "members"\naudiences = ["{AUDIENCE_KEY}"]\n'
    settings = load(write(HOOK + some), {})
    (audience,) = settings.audiences

    assert settings.subscribers(audience) == [("crm", False), ("some", True)]
    other = audience.model_copy(update={"key": "other"})
    assert settings.subscribers(other) == [("crm", False)]


def hook(**settings: object) -> HookTable:
    """Return a hook with some settings."""
    return HookTable.model_validate({"name": "crm", "url": "https://crm.example.com", **settings})


def test_secrets_are_looked_up(tmp_path: Path) -> None:
    """Two secrets of a rotation, headers, and a file."""
    both = resolve_hook(hook(secret=["${A}", "${B}"], headers={"X": "${C}"}), {"A": LONG, "B": LONG * 2, "C": "x"})
    file = tmp_path / "secret"
    file.write_text(f"{LONG}\n")

    assert (both.first.get_secret_value(), both.second and both.second.get_secret_value()) == (LONG, LONG * 2)
    assert both.headers["X"].get_secret_value() == "x"
    assert resolve_hook(hook(secret_file=file), {}).first.get_secret_value() == LONG


@pytest.mark.parametrize(
    ("settings", "environ", "sentence"),
    [
        ({"secret": "${A}"}, {}, "hook crm: `A` is not set as an environment variable or a systemd credential"),
        ({"secret": "${A}"}, {"A": "sh0rt"}, "hook crm: the secret in `A` has fewer than 16 characters"),
        (
            {"secret": "${A}", "headers": {"X": "${B}"}},
            {"A": LONG, "B": "a\nsh0rt"},
            "hook crm: `B` is not valid as the header X",
        ),
        ({"secret_file": Path("/nowhere/at-all")}, {}, "hook crm: cannot read the secret from /nowhere/at-all"),
    ],
)
def test_unusable_secrets(settings: dict[str, object], environ: dict[str, str], sentence: str) -> None:
    """The error names the reference and the remedy, and not what was found."""
    with pytest.raises(ConfigError, match=sentence) as caught:
        resolve_hook(hook(**settings), environ)

    assert caught.value.hint
    assert "sh0rt" not in f"{caught.value} {caught.value.hint}"
