"""Running a program as an ordinary user, whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
# No entry in the password file has this number.
NAMELESS = 54321


@dataclass(frozen=True)
class Runner:
    """A command prefix that switches the user, and a directory that is this user's own."""

    prefix: tuple[str, ...]
    user_id: int
    home: Path

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start our interpreter; its temporary files go to `home`."""
        return subprocess.Popen(
            [*self.prefix, sys.executable, *arguments],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "TMPDIR": str(self.home),
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                **{k: v for k, v in os.environ.items() if k.startswith("METASTORE_PROXY_")},
                **variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def runner_as(user_id: int | None) -> Iterator[Runner]:
    """Lend a runner as a user by number, or as the current one; its directory is removed.

    Switching to a user needs root. Where that user may not enter the directories of the
    interpreter or of the sources, the program gets the user's number in a user namespace.
    """
    home = Path(tempfile.mkdtemp(prefix="metastore-proxy-home-"))
    try:
        yield Runner((), os.geteuid(), home) if user_id is None else _switched(user_id, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _switched(user_id: int, home: Path) -> Runner:
    switch = ("setpriv", f"--reuid={user_id}", f"--regid={user_id}", "--clear-groups", "env")
    mapping = ("unshare", "--user", f"--map-user={user_id}", f"--map-group={user_id}", "--")
    # `setpriv` starts its program with root's rights of access; what `env` starts has lost them.
    # In the namespace the directory stays root's, who is the user there.
    for prefix, owner in ((switch, user_id), (mapping, 0)):
        os.chown(home, owner, owner)
        runner = Runner(prefix, user_id, home)
        probe = runner.start("-c", "import proxy.demo.postgres_host as h; h.find_binaries()")
        probe.communicate(timeout=30)
        if probe.returncode == 0:
            return runner
    pytest.skip("no other user can run this interpreter, and there are no user namespaces")


def processes_about(text: object) -> list[str]:
    """Return the command lines of the running processes that mention a text."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or ())
        if str(text) in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(command)
    return found
