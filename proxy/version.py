"""The version of this program.

A constant, as `pyproject.toml` has it: to look it up among the installed packages is a part of each
start that is worth sparing, and fails where the sources are run as they are.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
