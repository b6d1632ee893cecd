"""Where the headless Chromium comes from: the system, or Debian's package, without root.

Taken from `METASTORE_PROXY_CHROMIUM` (a path), else from PATH. Else, on a Debian-like system, the
package `chromium-headless-shell` and what this system lacks of its libraries are unpacked beside
the tests' virtual environment, once per machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.support import debian

PACKAGE: Final = "chromium-headless-shell"
_PROGRAM: Final = "usr/lib/chromium/chromium-headless-shell"
_NAMES: Final = (
    "chromium-headless-shell",
    "chrome-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
)


@dataclass(frozen=True)
class Program:
    """A Chromium, and the environment that it needs besides the test's own."""

    path: Path
    environment: Mapping[str, str]


def program() -> Program:
    """Return a Chromium. `debian.Missing` when it cannot be had."""
    found = _find()
    if isinstance(found, debian.Missing):
        raise found
    return found


@cache
def _find() -> Program | debian.Missing:
    """Looked for once, also in vain: that takes a while."""
    given = os.environ.get("METASTORE_PROXY_CHROMIUM")
    known = given or next(filter(None, map(shutil.which, _NAMES)), None)
    if known:
        return Program(Path(known), {})
    try:
        root = debian.unpacked(PACKAGE, holds=_PROGRAM, with_dependencies=True)
    except debian.Missing as missing:
        return debian.Missing(
            f"no Chromium is on PATH, and {missing}: set `METASTORE_PROXY_CHROMIUM`"
        )
    libraries = sorted({str(path.parent) for path in root.glob("**/lib/**/*.so*")})
    return Program(
        root / _PROGRAM,
        {"LD_LIBRARY_PATH": ":".join(libraries), "FONTCONFIG_FILE": str(_fonts(root))},
    )


def _fonts(root: Path) -> Path:
    """Return a font configuration of the system's fonts and those that were unpacked."""
    path = root / "fonts.conf"
    path.write_text(
        '<?xml version="1.0"?>\n<fontconfig>\n'
        "<dir>/usr/share/fonts</dir>\n"
        f"<dir>{root}/usr/share/fonts</dir>\n"
        f"<cachedir>{root}/font-cache</cachedir>\n"
        "</fontconfig>\n",
        encoding="utf-8",
    )
    return path
