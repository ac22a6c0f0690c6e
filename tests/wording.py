"""Check the wording of code, tests and documentation: plain technical English, without the patterns listed here.

`python -m tests.wording` prints each new match as `file:line` and exits with 1 if there is any. `wording.json` records
how many matches each file had; these numbers may only fall. A file that is not in it must have no match, and the sum of
each area (a folder or file at the top of the repository) may not rise. `python -m tests.wording --record` writes the
numbers anew after matches were removed; it never records more for an area than before.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).with_suffix(".json")
AREAS = (".github", "audience_sync", "migrations", "tests", "README.md", "config.example.toml")
SUFFIXES = {".py", ".md", ".toml"}
SKIPPED = {Path(__file__), Path(__file__).with_name("test_wording.py")}

PATTERNS: Mapping[str, str] = {  # a pattern, and what to write
    r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b)": 'write "is not a valid …"',
    r"\blest\b": 'write "so that … not"',
    r"\bmend(?:s|ed|ing)?\b": 'write "fix" or "repair"',
    r"\bwhom\b": "write a sentence with a subject, a verb and an object",
    r"\bbeside\b": 'write "next to" or "along with"',
    r"\bso (?:many|long)\b": "name the number or the time",
    r"\bof which\b": "write two sentences",
    r"\bthereof\b": 'write "of it"',
    r"\brooms?\b": 'write "table", "module" or "space"',
    r"\b(?:is|are|was|were) told\b": 'write "gets" or "knows", or name the message',
    r"\bsay(?:s|ing)? back\b": 'write "echo"',
    r"\bby and by\b": 'write "gradually"',
    r"\bin vain\b": 'write "without success"',
}
NOUN_CLAUSE = r'(?:"""(?:What|Who|Whose|Where)|(?:^\s*(?:#|-|\*) |[.:] )(?:What|Who|Whose)) [a-z][^?\n]*$'
_COMPILED = {
    **{re.compile(pattern, re.IGNORECASE): hint for pattern, hint in PATTERNS.items()},
    re.compile(NOUN_CLAUSE, re.MULTILINE): "begin with the subject of the sentence",
}


class Match(NamedTuple):
    """A place where the wording must change."""

    path: str  # from the root of the repository
    line: int
    text: str
    hint: str

    def __str__(self) -> str:
        """Return it as compilers report errors."""
        return f'{self.path}:{self.line}: "{self.text}": {self.hint}'


def checked_files(root: Path = ROOT) -> Iterator[Path]:
    """Yield the files to check, in order."""
    for area in AREAS:
        top = root / area
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.suffix in SUFFIXES and path not in SKIPPED:
                yield path


def matches_in(path: str, text: str) -> list[Match]:
    """Return the matches in the text of a file, by line."""
    found = [
        Match(path, text.count("\n", 0, match.end()) + 1, " ".join(match[0].split()), hint)
        for pattern, hint in _COMPILED.items()
        for match in pattern.finditer(text)
    ]
    return sorted(found, key=lambda match: match.line)


def area_of(path: str) -> str:
    """Return the area that a file belongs to."""
    return path.partition("/")[0]


def sums(counts: Mapping[str, int]) -> Counter[str]:
    """Return the number of matches of each area."""
    found: Counter[str] = Counter()
    for path, count in counts.items():
        found[area_of(path)] += count
    return found


def new_matches(found: Iterable[Match], recorded: Mapping[str, int]) -> list[Match]:
    """Return the matches in files that must be clean, and those in files of an area with more matches than recorded.

    Of an area with more matches only the files that have more themselves are listed.
    """
    matches = list(found)
    counts = Counter(match.path for match in matches)
    more, most = sums(counts), sums(recorded)
    return [
        match
        for match in matches
        if match.path not in recorded
        or (counts[match.path] > recorded[match.path] and more[area_of(match.path)] > most[area_of(match.path)])
    ]


def find(root: Path = ROOT) -> list[Match]:
    """Return all matches in the repository."""
    return [
        match
        for path in checked_files(root)
        for match in matches_in(path.relative_to(root).as_posix(), path.read_text())
    ]


def load_record() -> dict[str, int]:
    """Return the recorded number of matches of each file that had any."""
    return dict(json.loads(RECORD.read_text()))


def record(counts: Mapping[str, int], before: Mapping[str, int]) -> None:
    """Write the number of matches of each file, unless an area has more than before."""
    risen = {area for area, count in sums(counts).items() if before and count > sums(before)[area]}
    if risen:
        raise SystemExit(f"more matches than recorded in {', '.join(sorted(risen))}: nothing was recorded")
    RECORD.write_text(json.dumps(dict(sorted(counts.items())), indent=0) + "\n")


def main() -> None:
    """Print the new matches, or record the number of all."""
    found, recorded = find(), load_record() if RECORD.exists() else {}
    if sys.argv[1:] == ["--record"]:
        record(Counter(match.path for match in found), recorded)
    elif new := new_matches(found, recorded):
        raise SystemExit("\n".join(map(str, new)))


if __name__ == "__main__":
    main()
