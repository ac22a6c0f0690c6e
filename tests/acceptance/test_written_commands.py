"""Every command that the README, the manual, a message or a hint tells people to type is one that works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup

from audience_sync.cli.main import COMMANDS, load
from audience_sync.engines.registry import ENGINES
from audience_sync.extras import EXTRAS, install_command
from audience_sync.manual.manual_pages import FOLDER, manual_pages

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MANUAL = sorted(FOLDER.glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = "audience-sync"
GLOBAL = {"--config", "--version", "--help"}
PROSE = re.compile(rf"`{NAME} ([^`\n]+)`")
WRITTEN = [
    (path.relative_to(ROOT), text)
    for path in [README, *MANUAL, ROOT / "config.example.toml", *sorted((ROOT / "audience_sync").rglob("*.py"))]
    for text in [path.read_text()]
]


def shell_lines() -> Iterator[str]:
    """Yield the lines of the shell examples in the README and the manual, whole."""
    for path in [README, *MANUAL]:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
            yield from block.replace("\\\n", " ").splitlines()


def invocations() -> Iterator[list[str]]:
    """Yield the words of each call of the program in the shell examples."""
    for line in shell_lines():
        words = shlex.split(line, comments=True)
        for at, word in enumerate(words):
            if Path(word).name == NAME and not word.startswith("/etc") and words[at - 1 : at] not in (["venv"], ["-m"]):
                rest = words[at + 1 :]
                ends = [n for n, one in enumerate(rest) if one in {"|", "&&", ">", ">>", "||"}]
                yield rest[: ends[0]] if ends else rest


def options_of(name: str) -> set[str]:
    """Return the options of a command and of its subcommands."""
    command = load(name)
    several = [command, *command.commands.values()] if isinstance(command, TyperGroup) else [command]
    return GLOBAL | {option for one in several for param in one.params for option in param.opts}


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words) or "-") for words in invocations()])
def test_commands_in_examples_parse(words: list[str]) -> None:
    """Shell examples can be typed: the command exists, and takes these arguments and options."""
    words = words[2:] if words[0] == "--config" else words

    assert words[0] in COMMANDS
    load(words[0]).make_context(words[0], words[1:]).close()


def test_every_command_in_prose_exists() -> None:
    """A hint that names a command or an option that is not there would send people astray."""
    wrong = []
    seen = 0
    for path, text in WRITTEN:
        for said in PROSE.findall(text):
            words = re.sub(r"--config \S+ ?", "", said).split()
            name = words[0] if words else ""
            if name.startswith(("{", "-")):
                continue
            seen += 1
            options = {word.partition("=")[0] for word in words if re.fullmatch(r"--[a-z-]+(=.*)?", word)}
            if name not in COMMANDS or not options <= options_of(name):
                wrong.append(f"{path}: {said}")

    assert wrong == []
    assert seen > 50


def test_nothing_installs_the_package_from_an_index() -> None:
    """The package is on no index: a command that asks one for it fails."""
    asked = re.compile(rf"pip3? install[^\n`]*['\" ]{NAME}\b")

    assert [f"{path}: {found.group()}" for path, text in WRITTEN for found in asked.finditer(text)] == [
        "audience_sync/extras.py: pip install 'audience-sync"
    ]  # the sentence that says so


def test_installs_name_this_clone_and_extras_that_exist() -> None:
    """`pip install '.[postgres]'` in a clone, or a wheel that was built there."""
    installs = [line for line in shell_lines() if "pip install" in line]
    extras = {extra for line in installs for found in re.findall(r"\.\[([\w,]+)\]", line) for extra in found.split(",")}

    assert installs
    assert all(re.search(r"pip install (?:-\w )*(?:'?\.(?:\[[\w,]+\])?'?)(?:\s|$)", line) for line in installs), (
        installs
    )
    assert extras <= {*PROJECT["optional-dependencies"]}


def test_the_hints_install_what_the_extras_name() -> None:
    """The table in the program and the extras of the project are one."""
    declared = {name: tuple(packages) for name, packages in PROJECT["optional-dependencies"].items()}

    assert declared == {**EXTRAS, "all": declared["all"], "dev": declared["dev"]}
    assert declared["all"] == (f"{NAME}[{','.join(EXTRAS)}]",)
    assert {*EXTRAS["postgres"]} == {*ENGINES["postgresql"].packages}


def test_a_hint_can_be_pasted() -> None:
    """It is quoted for a shell, and for the Python that runs."""
    assert shlex.split(install_command(EXTRAS["postgres"])) == [
        sys.executable, "-m", "pip", "install", "psycopg[binary]>=3.2",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_wheel_is_whole(tmp_path: Path) -> None:
    """A wheel has the migrations, the example and the manual: what is installed from it works without the clone."""
    venv.create(tmp_path / "builder", with_pip=True)
    pip = [str(tmp_path / "builder" / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path / "dist"), str(ROOT)], check=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(installed), str(wheel)], check=True, cwd=tmp_path)
    ours = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    script = (
        f"import sys; sys.path[:] = {[str(installed), *ours]!r}; sys.argv = ['audience-sync', *sys.argv[1:]]\n"
        "import audience_sync; assert audience_sync.__file__.startswith(sys.path[0])\n"
        "from audience_sync.__main__ import main; main()"
    )

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-I", "-c", script, *words], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    names = set(zipfile.ZipFile(wheel).namelist())
    migrations = {f"audience_sync/migrations/versions/{path.name}" for path in ROOT.glob("migrations/versions/*.py")}
    manual = {f"audience_sync/manual/{path.name}" for path in MANUAL}
    assert migrations | manual | {"audience_sync/config.example.toml", "audience_sync/migrations/env.py"} <= names
    assert "audience_sync/cli/completion_words.json" in names
    assert '"where memberships are kept"' in run("schema")
    assert "created the membership database" in run("init")
    assert (tmp_path / "config.toml").read_text() == (ROOT / "config.example.toml").read_text()
    assert all(topic in run("manual") for topic in manual_pages())
    assert run("manual", "tutorial") == manual_pages()["tutorial"].text()
    assert run("--version").strip() == f"{NAME} {wheel.name.split('-')[1]}"
