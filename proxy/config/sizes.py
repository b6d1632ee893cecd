"""Sizes as people write them: `20MiB`, `20 MiB`, `1.5 GB`, `1000000`.

Facts: the grammar is that of Rust's bytesize 2, which Quickwit uses: a number, a blank if wanted,
and a unit in any case; `k`/`kB` are powers of 1000, `Ki`/`KiB` powers of 1024; a whole number
without a unit is bytes.
"""

from __future__ import annotations

import re
from typing import Final

_PREFIXES: Final = "kmgtpe"
_SIZE: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})\s*([a-z]*)")
_UNITS: Final = (
    {"b": 1}
    | {prefix + b: 1000**power for power, prefix in enumerate(_PREFIXES, 1) for b in ("", "b")}
    | {prefix + b: 1024**power for power, prefix in enumerate(_PREFIXES, 1) for b in ("i", "ib")}
)


def parse_size(text: str) -> int:
    """Return bytes. `ValueError` with what is expected; the text itself is not shown."""
    match = _SIZE.fullmatch(text.lower())
    if match:
        number, unit = match.groups()
        if not unit and number.isdigit():
            return int(number)
        if unit in _UNITS:
            factor = _UNITS[unit]
            return int(number) * factor if number.isdigit() else int(float(number) * factor)
    raise ValueError("must be a size, such as `20MiB`, `20 MB` or a number of bytes")


def render_size(size: int) -> str:
    """Return the text of a size, such that `parse_size` gives the same bytes."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"
