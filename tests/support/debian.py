"""Programs from Debian's packages, without root: downloaded by apt, which checks signatures.

They are unpacked beside the tests' virtual environment, once per machine. A package is unpacked
alone: what it depends on is given with it, or is on every such system.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_CACHE: Final = Path(sys.prefix) / "cache"
# Long enough for a package index over a slow line.
_BOUND: Final = 300.0
_NETWORK: Final = ("-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1")
# As root apt would hand the download to a user who may not write here.
_APT: Final = ("apt-get", *_NETWORK, "-o", "APT::Sandbox::User=root")


class Missing(Exception):
    """A package is not to be had; the text is a reason to skip."""


def unpacked(*packages: str) -> Path:
    """Return the directory that the packages are unpacked in, the first being its name."""
    target = _CACHE / packages[0]
    if target.exists():
        return target
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Missing(f"`{packages[0]}` is not on PATH, and there is no {program} to get it by")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as made:
        directory = Path(made)
        _download(packages, directory)
        for package in directory.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), str(directory / "unpacked")], directory)
        try:
            # Whole or not at all, also when two runs do so at once.
            (directory / "unpacked").rename(target)
        except OSError:
            if not target.exists():
                raise
    return target


def _download(packages: tuple[str, ...], directory: Path) -> None:
    try:
        _run([*_APT, "download", *packages], directory)
    except Missing:
        # The system's package lists are missing or old, and only root may renew them: use others.
        lists, archives = directory / "lists", directory / "archives"
        (lists / "partial").mkdir(parents=True)
        (archives / "partial").mkdir(parents=True)
        private = [f"Dir::State::lists={lists}", f"Dir::Cache={directory}", "Debug::NoLocking=1"]
        options = [part for option in private for part in ("-o", option)]
        _run([*_APT, *options, "update"], directory)
        _run([*_APT, *options, "download", *packages], directory)


def _run(command: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_BOUND, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"`{command[0]}` took longer than {_BOUND:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(f"`{command[0]}` failed: {said[-1] if said else 'it said nothing'}")
