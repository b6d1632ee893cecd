"""Durations as people write them: `10s`, `1min 30s`, `10min`.

Facts: the grammar is that of Rust's humantime 2.4, which Quickwit uses: numbers, with a fraction
if wanted, each followed by a unit; blanks may stand anywhere between them; a lone `0` is zero. A
month is 30.44 days, a year 365.25 days.
"""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {
    1e-9: ("nanos", "nsec", "ns"),
    1e-6: ("usec", "us", "µs"),
    1e-3: ("millis", "msec", "ms"),
    1.0: ("seconds", "second", "secs", "sec", "s"),
    60.0: ("minutes", "minute", "mins", "min", "m"),
    3600.0: ("hours", "hour", "hrs", "hr", "h"),
    86400.0: ("days", "day", "d"),
    604800.0: ("weeks", "week", "wks", "wk", "w"),
    2630016.0: ("months", "month", "M"),
    31557600.0: ("years", "year", "yrs", "yr", "y"),
}
_SECONDS: Final = {name: seconds for seconds, names in _UNITS.items() for name in names}
_SPAN: Final = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-zµ]+)\s*")
_RENDERED: Final = ((86400, "d"), (3600, "h"), (60, "min"))


def parse_duration(text: str) -> float:
    """Return seconds. `ValueError` with what is expected; the text itself is not shown."""
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(text):
        match = _SPAN.match(text, position)
        if match is None or match[2] not in _SECONDS:
            break
        total += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if not text or position < len(text):
        raise ValueError("must be a duration with a unit, such as `10s`, `1min 30s` or `200ms`")
    return total


def render_duration(seconds: float) -> str:
    """Return the text of a duration, such that `parse_duration` gives the same seconds."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.10g}ms"
    parts = []
    for size, unit in _RENDERED:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if seconds or not parts:
        parts.append(f"{seconds:.10g}s")
    return " ".join(parts)
