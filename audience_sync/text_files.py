"""Read text files that the configuration names, without waiting for what is not a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_text_file(path: Path, *, most_bytes: int) -> str:
    r"""Return the text of a regular file, without a byte order mark and with `\n` as line ends.

    A folder, a pipe or a device is refused at once: reading one could take forever.

    Raises:
        ValueError: it is not a regular file, cannot be read, is larger than `most_bytes`, or is not text; the
            message is a sentence that begins with the path.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path} is not a regular file")
            content = file.read(most_bytes + 1)
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder") from None
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > most_bytes:
        raise ValueError(f"{path} is larger than {most_bytes >> 20} MiB")
    return decoded(path, content)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def decoded(path: Path, content: bytes) -> str:
    r"""Return the bytes of a file as text, without a byte order mark and with `\n` as line ends.

    Raises:
        ValueError: they are not UTF-8; the message is a sentence that begins with the path.
    """
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: the file is not UTF-8 text") from None
