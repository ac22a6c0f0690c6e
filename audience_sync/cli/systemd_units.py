"""The systemd units of the service and of a one-off sync, with installation instructions.

Both run as the same user with the same state directory and key, so they share one membership database. The units deny
everything that the program does not need; the network and the state and cache directories stay accessible.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "audience-sync"
SECRETS_FOLDER: Final = "/etc/audience-sync"
API_KEY: Final = "SCHEMATIC_API_KEY"
HIDDEN: Final = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - where a unit sees nothing


@dataclass(frozen=True)
class Unit:
    """The parts that differ between machines."""

    command: tuple[str, ...]
    config: Path
    user: str | None  # None: a dynamic user
    secrets: tuple[str, ...] | None = None  # names that the configuration refers to; None: there is none yet

    @property
    def credentials(self) -> dict[str, str]:
        """Return the file of each secret, by its name."""
        names = (API_KEY,) if self.secrets is None else self.secrets
        taken = Counter(map(str.lower, names))
        return {one: f"{SECRETS_FOLDER}/{one.lower() if taken[one.lower()] == 1 else one}" for one in names}

    def service(self) -> str:
        """Return the unit of the service with installation instructions."""
        return (
            _SERVICE_RECIPE.format(**self._words())
            + _UNIT.format(description="Sync audiences from your database to Schematic")
            + _SERVICE.format(command=self._line("run"))
            + self._shared()
            + _INSTALL
        )

    def once(self) -> str:
        """Return the unit of a one-off sync with installation instructions."""
        return (
            _ONCE_RECIPE.format(**self._words())
            + _UNIT.format(description="Sync every audience once")
            + _ONCE.format(command=self._line("sync"))
            + self._shared()
        )

    def _shared(self) -> str:
        loaded = [f"LoadCredential={name}:{file}" for name, file in self.credentials.items()]
        if self.secrets is None:
            loaded.insert(0, _NO_CONFIGURATION.format(config=self.config))
        elif loaded:
            loaded.insert(0, _SECRETS.format(config=self.config))
        else:
            loaded.append(_NO_SECRETS.format(config=self.config))
        return _SHARED.format(user=self._user("\n"), credentials="\n".join(loaded)) + _HARDENING

    def _line(self, subcommand: str) -> str:
        return " ".join(map(quoted, (*self.command, "--config", str(self.config), subcommand)))

    def _user(self, between: str) -> str:
        # A dynamic user also has a name: units with the same name share the user and its files.
        return f"User={self.user}" if self.user else f"DynamicUser=yes{between}User={NAME}"

    def _words(self) -> dict[str, str]:
        owner = f"-o root -g {self.user} -m 640" if self.user else "-m 644"
        user = " ".join(f"-p {setting}" for setting in self._user(" ").split())
        return {
            "config": str(self.config),
            "folder": str(self.config.parent),
            "owner": owner,
            "files": "".join(
                f"#   install -m 600 /dev/null {file}\n#   $EDITOR {file}\n" for file in self.credentials.values()
            ),
            "user": user,
            "credentials": "".join(
                f"#     -p LoadCredential={name}:{file} \\\n" for name, file in self.credentials.items()
            ),
            "line": f"{shlex.join(self.command)} \\\n#     {shlex.join(('--config', str(self.config)))}",
        }


def quoted(word: str) -> str:
    """Return a word of a command line for systemd: % and $ doubled, and quoted if necessary."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if not word or set(word) & set(" \t'\"\\;") else word


_SECRETS: Final = """\
# The secrets that {config} refers to.
# After you add one, print this unit again, run `systemctl daemon-reload` and
# restart the service: a reload does not read credentials."""

_NO_SECRETS: Final = """\
# {config} refers to no secrets."""

_NO_CONFIGURATION: Final = """\
# ${{NAME}} in the configuration is the credential NAME. {config}
# does not exist yet: print this unit again when it refers to other secrets."""

_SERVICE_RECIPE: Final = """\
# /etc/systemd/system/audience-sync.service
#
# Install it as root. The configuration refers to secrets as ${{NAME}}; the
# service reads each from a file of its own, as a systemd credential (see
# LoadCredential below).
#
#   install -d {folder}
#   install {owner} config.toml {config}
{files}#   audience-sync service > /etc/systemd/system/audience-sync.service
#   systemctl daemon-reload
#
# Run other commands as the same user, with the same database and secrets;
# `init` creates the database.
#
#   as_service() {{
#     systemd-run --quiet --pipe --wait --collect \\
#     {user} \\
#     -p UMask=0077 -p StateDirectory=audience-sync \\
{credentials}#     {line} "$@"
#   }}
#   as_service init && as_service check && as_service plan
#
# Then:
#
#   systemctl enable --now audience-sync
#   journalctl -u audience-sync -f
#
# The membership database is in /var/lib/audience-sync. `systemctl stop` takes at most ten seconds. After you change the
# configuration, run `systemctl reload audience-sync`; the log names the settings that need a restart.

"""

_ONCE_RECIPE: Final = """\
# /etc/systemd/system/audience-sync-once.service
#
# Runs one sync alongside the service, with the same user, database and key. It
# waits for audiences that the service is syncing. Install it as root, after
# audience-sync.service:
#
#   audience-sync service --once \\
#     > /etc/systemd/system/audience-sync-once.service
#   systemctl daemon-reload
#   systemctl start audience-sync-once
#   journalctl -u audience-sync-once -e
#
# Exit code 3: some deliveries are still open, and the service continues with
# them. Exit code 4: a guard blocked an audience. Other commands need no unit:
#
#   systemd-run --quiet --pipe --wait --collect \\
#     {user} \\
#     -p UMask=0077 -p StateDirectory=audience-sync \\
{credentials}#     {line} status

"""

_UNIT: Final = """\
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target

"""

_SERVICE: Final = """\
[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# Read the configuration again; the log says what changed, or what is wrong with it.
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=10
# 2: the configuration stays invalid until somebody changes it.
RestartPreventExitStatus=2
# After a crash, startup first finishes interrupted work.
TimeoutStartSec=30min
TimeoutStopSec=15
WatchdogSec=60
KillMode=mixed
"""

_ONCE: Final = """\
[Service]
Type=oneshot
ExecStart={command}
TimeoutStopSec=15
KillMode=mixed
"""

_SHARED: Final = """
{user}
UMask=0077
StateDirectory=audience-sync
StateDirectoryMode=0700
CacheDirectory=audience-sync
CacheDirectoryMode=0700
Environment=TMPDIR=/var/cache/audience-sync
{credentials}
# Home directories are not accessible. To add a source file from one, read-only:
# BindReadOnlyPaths=/home/somebody/shop.db:/srv/shop.db
"""

_HARDENING: Final = """
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
KeyringMode=private
# A core dump would contain the key.
LimitCORE=0
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
# Remove this line only if a database driver compiles machine code at run time.
MemoryDenyWriteExecute=yes
"""

_INSTALL: Final = """
[Install]
WantedBy=multi-user.target
"""
