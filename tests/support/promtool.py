"""Where Prometheus' own programs come from: the system, or Debian's package, without root.

`promtool` and `prometheus` are taken from PATH or the directory of `METASTORE_PROXY_PROMTOOL` (a
path to promtool). Else, on a Debian-like system, the package `prometheus` is downloaded by apt,
which checks its signature, and unpacked beside the tests' virtual environment, once per machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

PACKAGE: Final = "prometheus"
_CACHE: Final = Path(sys.prefix) / "cache" / PACKAGE
# Long enough for a package index and 20 MB over a slow line.
_BOUND: Final = 300.0


class Missing(Exception):
    """Prometheus is neither here nor to be had; the text is a reason to skip."""


def binary(name: str) -> Path:
    """Return `promtool` or `prometheus`. `Missing` when it cannot be had."""
    directory = _directory()
    if isinstance(directory, Missing):
        raise directory
    found = directory / name
    if not found.exists():
        raise Missing(f"`{name}` is not in {directory}, where promtool is expected")
    return found


@cache
def _directory() -> Path | Missing:
    """Return where the programs are; looked for once, also in vain: that takes a while."""
    given = os.environ.get("METASTORE_PROXY_PROMTOOL") or shutil.which("promtool")
    if given:
        return Path(given).resolve().parent
    try:
        if not (_CACHE / "usr/bin/promtool").exists():
            _install()
    except Missing as missing:
        return missing
    return _CACHE / "usr/bin"


def _install() -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Missing(
                "promtool is not on PATH, `METASTORE_PROXY_PROMTOOL` is not set, and without "
                f"{program} Debian's package cannot be had"
            )
    _CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE.parent) as made:
        directory = Path(made)
        package = _download(directory)
        unpacked = directory / "unpacked"
        _run(["dpkg-deb", "-x", str(package), str(unpacked)], directory)
        try:
            # Whole or not at all, also when two runs do so at once.
            unpacked.rename(_CACHE)
        except OSError:
            if not (_CACHE / "usr/bin/promtool").exists():
                raise


def _download(directory: Path) -> Path:
    try:
        _run(["apt-get", "download", PACKAGE], directory)
    except Missing:
        # The system's package lists are missing or old, and only root may renew them: use others.
        lists, archives = directory / "lists", directory / "archives"
        (lists / "partial").mkdir(parents=True)
        (archives / "partial").mkdir(parents=True)
        private = [f"Dir::State::lists={lists}", f"Dir::Cache={directory}", "Debug::NoLocking=1"]
        options = [part for option in private for part in ("-o", option)]
        _run(["apt-get", *options, "update"], directory)
        _run(["apt-get", *options, "download", PACKAGE], directory)
    return next(directory.glob(f"{PACKAGE}_*.deb"))


def _run(command: list[str], directory: Path) -> None:
    network = ["-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1"]
    if command[0] == "apt-get":
        # As root apt would hand the download to a user who may not write here.
        command = [command[0], *network, "-o", "APT::Sandbox::User=root", *command[1:]]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_BOUND, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"`{command[0]}` gave no package `{PACKAGE}` within {_BOUND:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(
            f"promtool is not on PATH, and `{command[0]}` gave no package `{PACKAGE}` "
            f"({said[-1] if said else 'it said nothing'}): set `METASTORE_PROXY_PROMTOOL`"
        )
