"""Where Prometheus' own programs come from: the system, or Debian's package, without root.

`promtool` and `prometheus` are taken from PATH or the directory of `METASTORE_PROXY_PROMTOOL` (a
path to promtool), else from Debian's package `prometheus`.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.debian import Missing, unpacked

PACKAGE: Final = "prometheus"


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
        return unpacked(PACKAGE, holds="usr/bin/promtool") / "usr/bin"
    except Missing as missing:
        return Missing(f"promtool is not on PATH, and {missing}: set `METASTORE_PROXY_PROMTOOL`")
