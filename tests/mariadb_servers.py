"""One MariaDB server for all workers of a test run, and the databases in it.

It is kept as the PostgreSQL server is; see `pg_cluster`. Its settings are unlike those that the product needs: it must
not depend on any of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymysql
from sqlalchemy.engine import make_url

from tests.pg_cluster import POLL_INTERVAL, START_DEADLINE, STOP_DEADLINE, Run

MODULE = "tests.mariadb_servers"
SETTINGS = {
    "default-time-zone": "+05:00",
    "sql-mode": "ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE",
    "character-set-server": "latin1",
    "default-regex-flags": "DOTALL,MULTILINE,EXTENDED",
    "group-concat-max-len": "64",
    "net-write-timeout": "5",
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "16M",
    "max-connections": "200",
    "bind-address": "127.0.0.1",
}

_joined: list[Run] = []  # their locks are held until this process ends


def join(folder: Path) -> str:
    """Return the URL of the server of a run, which is there until this process ends."""
    _joined.append(Run(folder, MODULE))
    return _joined[-1].found()["url"]


@contextmanager
def new_database(url: str) -> Iterator[str]:
    """Make a database whose texts compare without regard to case, accents and blanks at the end, and yield its URL."""
    name = f"test_{uuid4().hex}"
    administer(url, f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    try:
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        administer(url, f"DROP DATABASE {name}")


def administer(url: str, *statements: str) -> None:
    """Run statements as they are."""
    with closing(connected(url)) as connection, closing(connection.cursor()) as cursor:
        for statement in statements:
            cursor.execute(statement)


def connected(url: str) -> Any:
    """Return a connection of PyMySQL's, in UTC and in the SQL mode that MariaDB has by default."""
    found = make_url(url)
    return pymysql.connect(
        host=found.host,
        port=found.port or 3306,
        user=found.username,
        password=str(found.password or ""),
        database=found.database,
        charset="utf8mb4",
        autocommit=True,
        init_command="SET sql_mode = 'STRICT_TRANS_TABLES', time_zone = '+00:00'",
    )


def keep(folder: Path) -> None:
    """Start a server in a folder, say where it is, and stop it when no process of the run is left."""
    user = ["--user=root"] if os.geteuid() == 0 else []
    data, temporary, port = folder / "data", folder / "tmp", _free_port()
    temporary.mkdir()  # a server that starts removes the temporary tables of others from a shared folder
    places = [f"--datadir={data}", f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}", f"--port={port}"]
    places.append(f"--tmpdir={temporary}")
    plain = ["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=16M"]
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", *user, *plain]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    with subprocess.Popen(["mariadbd", "--no-defaults", *user, *places, *options]) as server:
        try:
            url = f"mariadb://root@127.0.0.1:{port}"
            _wait_for(url, server)
            hidden = folder / "server.json.new"
            hidden.write_text(json.dumps({"url": url}))
            hidden.rename(folder / "server.json")
            with (folder / "users").open("w") as users:
                fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            server.terminate()
            try:
                server.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                server.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(pymysql.Error, OSError), closing(connected(url)):
            return
        time.sleep(POLL_INTERVAL)
    raise RuntimeError("mariadbd did not start")


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
