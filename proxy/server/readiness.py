"""Readiness of a node: a vector of named conditions, each true or with a reason in words.

Transitions of the whole::

    NOT_READY -> READY      every condition holds
    READY     -> NOT_READY  a condition fails (`fail`), or fails `DAMPING` times in a row (`miss`)
    any       -> DRAINING   `drain`; final

Facts: Quickwit's nodes become not ready after three failed probes in a row, and ready with the
first good one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

DAMPING: Final = 3

Listener = Callable[["Readiness"], None]


class Readiness:
    """The conditions of one node. Listeners hear of each change of the whole."""

    def __init__(self, conditions: dict[str, str]) -> None:
        """Start not ready; `conditions` maps each name to the reason why it does not hold yet."""
        self._reasons: dict[str, str | None] = dict(conditions)
        self._misses = dict.fromkeys(conditions, 0)
        # What there is to say of conditions that hold.
        self.notes: dict[str, str] = {}
        # What is lost though they hold.
        self.warnings: dict[str, str] = {}
        self._listeners: list[Listener] = []
        self.is_draining = False
        self._has_stand_in = False

    @property
    def is_ready(self) -> bool:
        """Whether the node may be sent calls."""
        return self.serves_itself or (self._has_stand_in and not self.is_draining)

    @property
    def serves_itself(self) -> bool:
        """Whether every condition holds: calls are served without another node's help."""
        return not self.is_draining and not any(self._reasons.values())

    @property
    def failures(self) -> dict[str, str]:
        """The conditions that do not hold, with the reason of each."""
        failing = {name: reason for name, reason in self._reasons.items() if reason}
        return {"draining": "the node is shutting down", **failing} if self.is_draining else failing

    @property
    def conditions(self) -> dict[str, str | None]:
        """All conditions; None is "holds"."""
        return dict(self._reasons)

    def holds(self, name: str) -> bool:
        """Whether one condition holds."""
        return self._reasons[name] is None

    def require(self, name: str, reason: str) -> None:
        """Add a condition, which does not hold yet. Before anybody listens."""
        self._reasons[name] = reason
        self._misses[name] = 0

    def on_change(self, listener: Listener) -> None:
        """Call `listener` now and after each change of the whole or of a reason."""
        self._listeners.append(listener)
        listener(self)

    def hold(self, name: str) -> None:
        """Say that a condition holds."""
        self._misses[name] = 0
        self._set(name, None)

    def fail(self, name: str, reason: str) -> None:
        """Say that a condition does not hold, and why."""
        self._set(name, reason)

    def miss(self, name: str, reason: str) -> None:
        """Count a failed probe: while the condition holds, only the third in a row fails it."""
        self._misses[name] += 1
        if self._reasons[name] is not None or self._misses[name] >= DAMPING:
            self._set(name, reason)

    def stand_in(self, is_there: bool) -> None:
        """Say whether other nodes would serve what this one cannot: then it is ready anyhow."""
        if self._has_stand_in is not is_there:
            self._has_stand_in = is_there
            self._notify()

    def drain(self) -> None:
        """Be not ready for good."""
        if not self.is_draining:
            self.is_draining = True
            self._notify()

    def _set(self, name: str, reason: str | None) -> None:
        if self._reasons[name] != reason:
            self._reasons[name] = reason
            self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener(self)
