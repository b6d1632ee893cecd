"""Which of many equal log lines are written. Pure: the clock is an argument, in seconds.

A line has an event (what happened) and a key (to what it happened). The same key is let through
once per interval, and of all keys of one event at most `BURST`. What is held back is counted, and
told with the next line of the same key or, once the interval is over, by itself.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

E = TypeVar("E", bound=Hashable)

INTERVAL: Final = 10.0
BURST: Final = 20
# Events that are remembered; the oldest is forgotten first.
_MAX_EVENTS: Final = 1000


@dataclass
class _Window:
    """One event since `began`: what it happened to, and how many lines were held back."""

    began: float
    keys: set[Hashable] = field(default_factory=set)
    held_back: int = 0


class Repeats(Generic[E]):
    """Decides line by line. Not thread-safe."""

    def __init__(self, interval: float = INTERVAL, burst: int = BURST) -> None:
        self._interval = interval
        self._burst = burst
        self._windows: dict[E, _Window] = {}
        self._told_late: list[tuple[E, int]] = []

    def admit(self, event: E, key: Hashable, now: float) -> int | None:
        """Return None for a line that is held back.

        For one to be written: how many of the same key were held back before it. What was held
        back of several keys is for `due` to tell.
        """
        window = self._windows.get(event)
        if window is None or now - window.began >= self._interval:
            self._windows.pop(event, None)
            self._windows[event] = _Window(now, {key})
            if len(self._windows) > _MAX_EVENTS:
                del self._windows[next(iter(self._windows))]
            if window is None or window.keys == {key}:
                return 0 if window is None else window.held_back
            self._told_late.append((event, window.held_back))
            return 0
        if key in window.keys or len(window.keys) >= self._burst:
            window.held_back += 1
            return None
        window.keys.add(key)
        return 0

    def due(self, now: float) -> list[tuple[E, int]]:
        """Return the events whose interval is over, with how many of their lines were held back."""
        due, self._told_late = self._told_late, []
        # In the order of their beginnings: the first that is not over ends the search.
        while self._windows:
            event, window = next(iter(self._windows.items()))
            if now - window.began < self._interval:
                break
            del self._windows[event]
            due.append((event, window.held_back))
        return [(event, count) for event, count in due if count]
