"""Durations and schedules as people write them in index configs, and how they are stored.

Facts: a canonical duration names years (365.25 days), months (30.44 days) and days in words and
the rest in short units. A schedule is a name such as `hourly`, or a cron expression of six or
seven fields.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.config.durations import parse_duration

_NANOS: Final = 1_000_000_000
_DAY: Final = 86_400
_MONTH: Final = 2_630_016
_YEAR: Final = 31_557_600

_SCHEDULES: Final = frozenset({"hourly", "daily", "weekly", "monthly", "yearly"})
_CRON_FIELD: Final = re.compile(r"[0-9A-Za-z*/,?-]+")


def canonical_duration(text: str) -> str:
    """Return a duration in its canonical form. `ValueError` if it is not one."""
    duration = parse_duration(text)
    if duration >= 2**64:
        raise ValueError("must be a duration of less than 2^64 seconds")
    seconds, nanos = int(duration), round(duration % 1 * _NANOS)
    years, seconds = divmod(seconds, _YEAR)
    months, seconds = divmod(seconds, _MONTH)
    days, seconds = divmod(seconds, _DAY)
    words = [
        f"{count}{unit}{'s' if count > 1 else ''}"
        for count, unit in ((years, "year"), (months, "month"), (days, "day"))
        if count
    ]
    short = (
        (seconds // 3600, "h"),
        (seconds % 3600 // 60, "m"),
        (seconds % 60, "s"),
        (nanos // 1_000_000, "ms"),
        (nanos // 1000 % 1000, "us"),
        (nanos % 1000, "ns"),
    )
    return " ".join([*words, *(f"{count}{unit}" for count, unit in short if count)]) or "0s"


def schedule_problem(text: str) -> str | None:
    """Return why an evaluation schedule is neither a known name nor a cron expression, or None."""
    trimmed = text.strip()
    if trimmed.removeprefix("@") in _SCHEDULES:
        return None
    fields = trimmed.split()
    if len(fields) in {6, 7} and all(_CRON_FIELD.fullmatch(field) for field in fields):
        return None
    return (
        f"failed to parse retention evaluation schedule `{text[:64]}`: expected one of "
        f"{', '.join(sorted(_SCHEDULES))} or a cron expression of six or seven fields"
    )
