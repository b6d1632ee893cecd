"""From the command line to the parent: the process is replaced, so that nothing it loaded stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def interpreter() -> list[str]:
    """Return the command of this Python, so that it finds modules where this process does.

    The working directory is not looked into, unless `proxy` was run from it.
    """
    first = sys.path[0] if sys.path else ""
    return [sys.executable] if first in ("", str(Path.cwd())) else [sys.executable, "-P"]


def become_parent(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the parent of workers; `arguments` are those of `metastore-proxy`."""
    sys.stdout.flush()
    sys.stderr.flush()
    command = [*interpreter(), "-m", "proxy.workers", *arguments]
    os.execv(command[0], command)  # noqa: S606 - this very program again, and no shell
