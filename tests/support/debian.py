"""Programs of Debian's packages, unpacked beside the tests' virtual environment, without root.

apt downloads the packages and checks their signatures; nothing is installed. Each is fetched once
per machine; of two runs that do so at once, one throws away what it got.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_CACHE: Final = Path(sys.prefix) / "cache"
# Long enough for a package index and 100 MB over a slow line.
_BOUND: Final = 300.0


class Missing(Exception):
    """A package is not to be had; the text is a reason to skip."""


def unpacked(package: str, *, holds: str, with_dependencies: bool = False) -> Path:
    """Return the directory where a package is unpacked. `Missing` when it cannot be had.

    `holds` is a file of it by which a complete one is told. `with_dependencies` unpacks in the same
    place what this system lacks of the packages that it needs.
    """
    root = _CACHE / package
    if not (root / holds).exists():
        _install(package, root, holds, with_dependencies=with_dependencies)
    return root


def _install(package: str, root: Path, holds: str, *, with_dependencies: bool) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Missing(f"without {program} Debian's package `{package}` cannot be had")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as made:
        directory = Path(made)
        _download(package, directory, with_dependencies=with_dependencies)
        whole = directory / "unpacked"
        for archive in sorted(directory.glob("*.deb")):
            _run(package, ["dpkg-deb", "-x", str(archive), str(whole)], directory)
        if not (whole / holds).exists():
            raise Missing(f"Debian's package `{package}` has no {holds}")
        try:
            # Whole or not at all, also when two runs do so at once.
            whole.rename(root)
        except OSError:
            if not (root / holds).exists():
                raise


def _download(package: str, directory: Path, *, with_dependencies: bool) -> None:
    try:
        _fetch(package, directory, (), with_dependencies=with_dependencies)
    except Missing:
        # The system's package lists are missing or old, and only root may renew them: use others.
        lists, archives = directory / "lists", directory / "archives"
        (lists / "partial").mkdir(parents=True)
        (archives / "partial").mkdir(parents=True)
        private = [f"Dir::State::lists={lists}", f"Dir::Cache={directory}", "Debug::NoLocking=1"]
        options = [part for option in private for part in ("-o", option)]
        _run(package, ["apt-get", *options, "update"], directory)
        _fetch(package, directory, options, with_dependencies=with_dependencies)


def _fetch(
    package: str, directory: Path, options: Sequence[str], *, with_dependencies: bool
) -> None:
    wanted = [package]
    if with_dependencies:
        simulated = ["install", "--simulate", "--no-install-recommends", package]
        said = _run(package, ["apt-get", *options, *simulated], directory)
        planned = [line.split()[1] for line in said.splitlines() if line.startswith("Inst ")]
        # The system's loader works with the system's C library alone.
        wanted = [name for name in planned if name not in {"libc6", "libc-bin"}] or wanted
    _run(package, ["apt-get", *options, "download", *wanted], directory)


def _run(package: str, command: list[str], directory: Path) -> str:
    network = ["-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1"]
    if command[0] == "apt-get":
        # As root apt would hand the download to a user who may not write here.
        command = [command[0], *network, "-o", "APT::Sandbox::User=root", *command[1:]]
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_BOUND,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"`{command[0]}` gave no package `{package}` within {_BOUND:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise Missing(f"`{command[0]}` gave no package `{package}` ({said[-1]})")
    return done.stdout
