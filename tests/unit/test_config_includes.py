"""Included files and the files of definitions: what they add, in which order, and the file and line of each mistake."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from audience_sync import config_path
from audience_sync.checks import check_permissions
from audience_sync.checks.check_configuration import look
from audience_sync.config import Settings, definition_files, load
from audience_sync.core.model import Severity
from audience_sync.daemon.service import read_again
from audience_sync.errors import ConfigError

MAIN = """\
include = ["audiences.d/*.toml"]
[sources.shop]
url = "sqlite:///shop.db"
[sources.shop.events]
table = "events"
"""
QUERY = "event('Order Completed').count() >= 1"


def audience(name: str, more: str = 'sql = "SELECT 1 AS user_id"') -> str:
    """Return the table of an audience."""
    return f'[[audiences]]\nname = "{name}"\n{more}\n'


class Files:
    """A folder with a configuration in several files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main = folder / "config.toml"
        (folder / "audiences.d").mkdir()
        self.write("config.toml", MAIN)

    def write(self, name: str, content: str | bytes) -> Path:
        """Write one file and return its path."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def load(self) -> Settings:
        """Return what the files say."""
        return load(self.main, {})

    def refusal(self) -> ConfigError:
        """Return the error of loading them; the folder is written as `DIR`."""
        with pytest.raises(ConfigError) as caught:
            self.load()
        return ConfigError(str(caught.value).replace(str(self.folder), "DIR"), hint=caught.value.hint)

    def problems(self) -> list[str]:
        """Return the problems that loading them lists."""
        heading, *lines = str(self.refusal()).splitlines()
        assert heading == f"DIR/config.toml has {len(lines)} problem{'s' if len(lines) > 1 else ''}:"
        return [line.removeprefix("  ") for line in lines]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A main file that includes the files of a folder, which is empty."""
    return Files(tmp_path)


def test_included_files_come_in_the_order_of_their_names(files: Files) -> None:
    """Audiences, computed traits and mappings of included files come behind those of the main file."""
    mapping = '[[mappings]]\nname = "{}"\naction = "identifyUser"\n'
    files.write("config.toml", MAIN + audience("Main") + mapping.format("first"))
    files.write("audiences.d/20-b.toml", audience("Late"))
    trait = f'[[traits]]\nname = "Orders"\nquery = "{QUERY.removesuffix(" >= 1")}"\n'
    files.write("audiences.d/10-a.toml", audience("Early", f'query = "{QUERY}"') + trait + mapping.format("second"))
    files.write("audiences.d/README", "not TOML")
    files.write("audiences.d/.hidden.toml", "not TOML")

    settings = files.load()

    assert [one.key for one in settings.audiences] == ["main", "early", "late", "orders"]
    assert [one.name for one in settings.mapping_tables] == ["first", "second"]
    assert settings.files == (files.main, *(files.folder / "audiences.d" / name for name in ("10-a.toml", "20-b.toml")))


def test_patterns_come_in_the_order_of_the_list_and_a_file_counts_once(files: Files) -> None:
    """The main file is not included in itself, and a file that two patterns match is read once."""
    files.write("config.toml", MAIN.replace('["audiences.d/*.toml"]', '["z.toml", "*.toml", "audiences.d/[ab].toml"]'))
    for name in ("z.toml", "y.toml", "audiences.d/b.toml", "audiences.d/c.toml"):
        files.write(name, audience(Path(name).stem))

    assert [one.key for one in files.load().audiences] == ["z", "y", "b"]


def test_a_glob_may_match_nothing_and_a_path_may_not(files: Files) -> None:
    """An empty folder of audiences is valid, and `check` says so; a named file that is missing is an error."""
    settings = files.load()
    (finding,) = [one for one in look(settings, {}) if "include" in (one.remedy or "")]

    assert (settings.audiences, settings.included) == ((), ())
    assert (finding.state, finding.subject) == (Severity.WARNING, f"{files.folder}/audiences.d/*.toml")
    assert finding.message == "matches no file, so it adds nothing to the configuration"

    files.write("config.toml", MAIN.replace("audiences.d/*", "more"))
    assert files.problems() == ["line 1: include[0]: DIR/more.toml does not exist"]


def test_a_folder_that_cannot_be_listed_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled folder, or one that the service may not read, does not take its audiences out of the schedule."""
    files.write("config.toml", MAIN.replace("audiences.d", "audience.d"))
    assert files.problems() == ["line 1: include[0]: the folder DIR/audience.d does not exist"]

    files.write("config.toml", MAIN.replace("audiences.d", "config.toml/*"))
    assert files.problems() == ["line 1: include[0]: the folder DIR/config.toml cannot be read: Not a directory"]

    def refuse(_folder: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    files.write("config.toml", MAIN)
    monkeypatch.setattr(os, "scandir", refuse)  # root may list every folder
    assert files.problems() == ["line 1: include[0]: the folder DIR/audiences.d cannot be read: Permission denied"]


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    """Brackets in the path of the main file are literal; absolute patterns and patterns of folders work."""
    folder = tmp_path / "a[b]*"
    folder.mkdir()
    files = Files(folder)
    absolute = tmp_path / "else"
    absolute.mkdir()
    (absolute / "two.toml").write_text(audience("Two"))
    files.write("config.toml", MAIN.replace("]", f', "{absolute}/*.toml", "*.d/t?ree.toml"]', 1))
    files.write("audiences.d/one.toml", audience("One"))
    files.write("more.d/three.toml", audience("Three"))

    assert [one.key for one in files.load().audiences] == ["one", "two", "three"]


@pytest.mark.parametrize("value", ['"a.toml"', "true", "{}"])
def test_include_is_a_list(files: Files, value: str) -> None:
    """One path without brackets is a mistake with its correction in the sentence."""
    files.write("config.toml", f"include = {value}\n")

    assert files.problems() == [
        'line 1: include: must be a list of file paths or globs, as in `["audiences.d/*.toml"]`'
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[schematic]\ntimeout = '1s'\n",
            (
                "line 1: schematic: is only allowed in DIR/config.toml: an included file has only [[audiences]],"
                " [[traits]] and [[mappings]]"
            ),
        ),
        (
            "\ninclude = ['more/*.toml']\n",
            "line 2: include: an included file cannot include others; add its files to `include` in DIR/config.toml",
        ),
        ("[[audience]]\nname = 'A'\n", "line 1: audience: unknown setting (did you mean `audiences`?)"),
        ("audiences = 3\n", "line 1: audiences: must be a list of tables: start each table with [[audiences]]"),
    ],
)
def test_only_lists_of_tables_may_be_included(files: Files, text: str, problem: str) -> None:
    """Anything else belongs in the main file, and the sentence says where it was found."""
    files.write("audiences.d/a.toml", text)

    assert files.problems() == [f"DIR/audiences.d/a.toml, {problem}"]


def test_problems_of_all_files_come_at_once_each_with_its_file(files: Files) -> None:
    """The index counts the tables of its own file; the main file comes first."""
    files.write("config.toml", MAIN + audience("One", "sql = 1") + "[delivery]\nconcurrency = 0\n")
    files.write("audiences.d/a.toml", audience("Two") + audience("Three", f'query = "{QUERY} AND"'))
    files.write("audiences.d/b.toml", audience("Four", 'sqll = "SELECT 1"'))

    assert files.problems() == [
        'line 8, "One": audiences[0].sql: must be text in quotes',
        "line 10: delivery.concurrency: must be at least 1",
        (
            'DIR/audiences.d/a.toml, line 6, "Three": audiences[1].query: column 42: expected a condition'
            " after `AND`, found the end"
        ),
        'DIR/audiences.d/b.toml, line 1, "Four": audiences[0].sql: missing',
        (
            'DIR/audiences.d/b.toml, line 3, "Four": audiences[0].sqll: unknown setting'
            " (did you mean `sql` or `sql_file`?)"
        ),
    ]


def test_the_same_key_or_name_in_two_files_names_both_places(files: Files) -> None:
    """Both files with their lines: nobody searches a folder for the other one."""
    mapping = '[[mappings]]\nname = "M"\naction = "identifyUser"\n'
    files.write("config.toml", MAIN + audience("Gold") + mapping)
    files.write("audiences.d/a.toml", audience("Silver", 'key = "gold"\nsql = "SELECT 1"'))
    files.write("audiences.d/b.toml", audience("Bronze") + audience("Gold") + mapping)
    files.write("audiences.d/c.toml", audience("Bronze"))

    assert files.problems() == [
        (
            "DIR/audiences.d/a.toml, line 3, \"Silver\": audiences[0].key: 'Gold' (audiences[0] in DIR/config.toml,"
            " line 6) and 'Silver' have the same key `gold`; set a different `key` for one of them"
        ),
        (
            'DIR/audiences.d/b.toml, line 5, "Gold": audiences[1].name: is also the name of audiences[0] in'
            " DIR/config.toml, line 6; rename one of them"
        ),
        (
            'DIR/audiences.d/b.toml, line 8, "M": mappings[0].name: is also the name of mappings[0] in DIR/config.toml,'
            " line 9; rename one of them"
        ),
        (
            'DIR/audiences.d/c.toml, line 2, "Bronze": audiences[0].name: is also the name of audiences[0] in'
            " DIR/audiences.d/b.toml, line 1; rename one of them"
        ),
    ]


def test_queries_of_different_files_use_each_other(files: Files) -> None:
    """`trait('key')` finds audiences of all files, and a circle is found across them."""
    files.write("audiences.d/a.toml", audience("A", "query = \"trait('b') = true\""))
    files.write("audiences.d/b.toml", audience("B", f'query = "{QUERY}"'))
    assert [one.asks_for for one in files.load().audiences] == [{"b"}, set()]

    files.write("audiences.d/b.toml", audience("B", "query = \"trait('a') = true\""))
    assert files.problems() == ['DIR/audiences.d/a.toml, line 3, "A": audiences[0].query: uses itself: a → b → a']


def test_an_included_file_that_is_not_toml_names_its_line(files: Files) -> None:
    """As for the main file: file, line, column and what to do."""
    files.write("audiences.d/a.toml", "[[audiences]]\nname = VIP\n")
    refusal = files.refusal()

    assert str(refusal) == "DIR/audiences.d/a.toml, line 2, column 8: invalid value"
    assert "straight quotes" in (refusal.hint or "")


# Files of definitions


def test_a_definition_in_a_file_means_the_same(files: Files) -> None:
    """Moving SQL or a query into a file changes no digest, so nobody has to approve anything."""
    sql = "SELECT user_id\nFROM orders"
    inline = audience("A", f'sql = """{sql}"""') + audience("B", f'query = "{QUERY}"')
    files.write("config.toml", MAIN + inline)
    before = [one.definition_hash for one in files.load().audiences]
    files.write("queries/a.sql", f"\ufeff{sql}\n".replace("\n", "\r\n"))
    files.write("audiences.d/b.txt", f"{QUERY}\n")
    files.write("config.toml", MAIN + audience("A", 'sql_file = "queries/a.sql"'))
    files.write("audiences.d/b.toml", audience("B", 'query_file = "b.txt"'))

    settings = files.load()

    assert [one.definition_hash for one in settings.audiences] == before
    assert [one.sql for one in settings.audiences] == [f"{sql}\n", None]
    assert settings.files == (
        files.main, *(files.folder / one for one in ("audiences.d/b.toml", "queries/a.sql", "audiences.d/b.txt"))
    )  # fmt: skip


def fifo(path: Path) -> None:
    """Make a pipe that nobody writes to."""
    os.mkfifo(path)


def loop(path: Path) -> None:
    """Make two links that lead to each other."""
    other = path.with_name(f"other-{path.name}")
    path.symlink_to(other.name)
    other.symlink_to(path.name)


def listening(path: Path) -> None:
    """Make the socket of a server that has gone."""
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))


UNUSUAL: list[tuple[Callable[[Path], object], str]] = [
    (Path.mkdir, "is a folder"),
    (fifo, "is not a regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    (listening, "cannot be read: No such device or address"),
    (loop, "cannot be read: Too many levels of symbolic links"),
    (lambda path: path.symlink_to("gone"), "does not exist"),
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("make", "sentence"), UNUSUAL)
def test_what_is_not_a_file_is_refused_at_once(
    files: Files, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], sentence: str
) -> None:
    """A folder, a pipe, a device or a loop of links in the place of a file is one sentence, and nothing waits."""
    monkeypatch.chdir(files.folder)  # a socket's path is short
    make(Path("audiences.d/a.toml"))
    assert files.problems() == [f"line 1: include[0]: DIR/audiences.d/a.toml {sentence}"] + [
        f"line 1: include[0]: DIR/audiences.d/other-a.toml {sentence}" for _ in range(make is loop)
    ]

    make(Path("a.sql"))
    files.write("config.toml", MAIN.replace('["audiences.d/*.toml"]', "[]") + audience("A", 'sql_file = "a.sql"'))
    assert files.problems() == [f'line 8, "A": audiences[0].sql_file: DIR/a.sql {sentence}']


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "a.sql is empty"),
        (b"\xef\xbb\xbf \n\t", "a.sql is empty"),
        (b"SELECT 1\nFROM \xfft\n", "a.sql, line 2: the file is not UTF-8 text"),
        (b"SELECT 1\0", "a.sql contains a NUL character"),
        (b"-" * (definition_files.MOST_BYTES + 1), "a.sql is larger than 1 MiB"),
    ],
)
def test_what_is_no_definition_is_refused(files: Files, content: bytes, sentence: str) -> None:
    """Empty, of another encoding, binary or too large: one sentence with the path."""
    files.write("a.sql", content)
    for setting in ("sql_file", "query_file"):
        files.write("config.toml", MAIN + audience("A", f'{setting} = "a.sql"'))
        assert files.problems() == [f'line 8, "A": audiences[0].{setting}: DIR/{sentence}']


def test_an_included_file_is_read_up_to_a_limit(files: Files) -> None:
    """A log file in the place of a configuration does not fill the memory."""
    files.write("audiences.d/a.toml", b"#" * (config_path.MOST_BYTES + 1))
    assert files.problems() == ["line 1: include[0]: DIR/audiences.d/a.toml is larger than 16 MiB"]

    files.write("audiences.d/a.toml", b"name = '\xff'")
    assert files.problems() == ["line 1: include[0]: DIR/audiences.d/a.toml, line 1: the file is not UTF-8 text"]


def test_a_file_name_is_text(files: Files) -> None:
    """The name of a file gets into JSON, which has only UTF-8."""
    (files.folder / "audiences.d" / os.fsdecode(b"\xff.toml")).write_text(audience("A"))

    assert files.problems() == ["line 1: include[0]: DIR/audiences.d/\ufffd.toml: the file name is not valid UTF-8"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_of_somebody_else_is_refused(files: Files) -> None:
    """The reason is the system's."""
    files.write("a.sql", "SELECT 1").chmod(0)
    files.write("config.toml", MAIN + audience("A", 'sql_file = "a.sql"'))

    assert files.problems() == ['line 8, "A": audiences[0].sql_file: DIR/a.sql cannot be read: Permission denied']


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ('sql = "x"\nsql_file = "a.sql"', "sql_file: cannot be combined with `sql`; remove one of them"),
        ('sql_file = "a.sql"\nquery_file = "b"', "query_file: cannot be combined with `sql_file`; remove one of them"),
        ('query_file = "b"\nquery = "x"', "query_file: cannot be combined with `query`; remove one of them"),
        ('sql_file = ""', "sql_file: must not be empty"),
        ("sql_file = 7", "sql_file: must be text in quotes"),
        ('query_file = "a\\u0000"', "query_file: must not contain a NUL character"),
    ],
)
def test_a_definition_is_given_once(files: Files, settings: str, problem: str) -> None:
    """Two of the four settings exclude each other, and a path is text."""
    files.write("config.toml", MAIN + audience("A", settings))

    assert f"audiences[0].{problem}" in "\n".join(files.problems())


def test_a_mistake_in_a_query_names_file_line_and_column(files: Files) -> None:
    """The place is that of the file of the query, after the place of the audience."""
    files.write("b.txt", f"-\n{QUERY}")
    files.write("audiences.d/a.toml", audience("A", 'query_file = "../b.txt"'))
    (problem,) = files.problems()
    assert problem.startswith(
        'DIR/audiences.d/a.toml, line 3, "A": audiences[0].query_file: DIR/audiences.d/../b.txt, line 1, column 1: '
    )

    files.write("b.txt", "trait('x') = 1")
    assert files.problems()[0].startswith(
        "DIR/audiences.d/a.toml, line 3, \"A\": audiences[0].query_file: uses trait('x'), but there is no audience"
    )


# Everything else that reads the files


def test_a_reload_sees_changes_in_every_file(files: Files) -> None:
    """A new file, a changed one, and changed SQL are named by the audiences that they are about."""
    key, environ = SecretStr("k"), {"SCHEMATIC_API_KEY": "k"}
    files.write("config.toml", MAIN + audience("A", 'sql_file = "a.sql"'))
    files.write("a.sql", "SELECT 1")
    files.write("audiences.d/b.toml", audience("B"))
    old = files.load()

    files.write("a.sql", "SELECT 2")
    files.write("audiences.d/c.toml", audience("C"))
    (files.folder / "audiences.d" / "b.toml").unlink()
    found = read_again(old, key, environ)

    assert (found.added, found.removed, found.changed, found.other) == (("c",), ("b",), ("a",), ())
    files.write("a.sql", " ")
    with pytest.raises(ConfigError, match=r"a\.sql is empty"):
        read_again(found.settings, key, environ)


def test_permissions_of_every_file_are_checked(files: Files) -> None:
    """Whoever can write to an included file or to SQL decides who is in an audience."""
    files.write("config.toml", MAIN + audience("A", 'sql_file = "a.sql"')).chmod(0o640)
    sql = files.write("a.sql", "SELECT 1 FROM dblink('postgresql://u:hunter2@db/shop')")
    sql.chmod(0o644)
    included = files.write("audiences.d/b.toml", audience("B"))
    included.chmod(0o666)
    included.parent.chmod(0o775)
    found = {one.subject: one for one in check_permissions.look(files.load())}

    assert found.keys() == {str(sql), str(included), str(included.parent)}
    assert "could change who is in an audience" in found[str(included)].message
    assert "contains a password" in found[str(sql)].message
    assert "could add audiences" in found[str(included.parent)].message
    assert found[str(included.parent)].remedy == f"chmod go-w {included.parent}"
