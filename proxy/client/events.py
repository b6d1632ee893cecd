"""What the client tells its application: frozen events, handed to one listener.

The client keeps no metrics of its own; an application counts the events it cares for. A listener
runs in the event loop, between two steps of the client, and must not block.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import Code
from proxy.routing.members import BackendRole, BackendState
from proxy.routing.selection import Route

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackendChanged:
    """A backend changed its state. `before` is None for a new one, `after` for one that left."""

    address: str
    role: BackendRole
    before: BackendState | None
    after: BackendState | None
    reason: str


@dataclass(frozen=True, slots=True)
class BackendRefused:
    """A backend turned out to serve another cluster's database; it takes no call."""

    address: str
    role: BackendRole
    identity: str
    expected: str


@dataclass(frozen=True, slots=True)
class BackendEjected:
    """A backend's breaker opened: too many calls failed."""

    address: str
    role: BackendRole


@dataclass(frozen=True, slots=True)
class ResolveFailed:
    """The name in a `dns:///` target did not resolve; addresses known before stay in use."""

    target: str
    error: str


@dataclass(frozen=True, slots=True)
class CallRouted:
    """An attempt (counted from 1) of a call goes to a backend."""

    rpc: str
    backend: str
    route: Route
    attempt: int


@dataclass(frozen=True, slots=True)
class CallFellBack:
    """A call that a replica could have served goes to a primary, for want of a replica."""

    rpc: str
    backend: str


@dataclass(frozen=True, slots=True)
class CallShared:
    """A call waits for the answer to an identical one that is in flight."""

    rpc: str


@dataclass(frozen=True, slots=True)
class CallHedged:
    """A call that had no answer after the hedge's delay goes to `backend` as well."""

    rpc: str
    backend: str


@dataclass(frozen=True, slots=True)
class CallShed:
    """A call failed because the primaries take no more reads in place of replicas."""

    rpc: str


@dataclass(frozen=True, slots=True)
class RetryDenied:
    """An attempt failed and the call is not repeated, for want of a budget."""

    rpc: str
    backend: str


@dataclass(frozen=True, slots=True)
class CallRetried:
    """An attempt failed on `backend` and another backend is tried. `error` is the variant."""

    rpc: str
    backend: str
    error: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CallFinished:
    """An attempt ended after `seconds`; `code` is OK, the error's, or CANCELLED."""

    rpc: str
    backend: str
    role: BackendRole
    route: Route
    code: Code
    seconds: float


Event = (
    BackendChanged
    | BackendEjected
    | BackendRefused
    | CallFellBack
    | CallFinished
    | CallHedged
    | CallRetried
    | CallRouted
    | CallShared
    | CallShed
    | ResolveFailed
    | RetryDenied
)


class EventListener(Protocol):
    """Whatever can be called with an event."""

    def __call__(self, event: Event, /) -> None:
        """Take note of an event. What it raises is logged and goes no further."""


class Emitter:
    """Hands events to the listener and keeps the listener's failures away from the calls."""

    def __init__(self, listener: EventListener | None) -> None:
        self._listener = listener

    def __call__(self, event: Event) -> None:
        """Hand over one event."""
        if self._listener is None:
            return
        try:
            self._listener(event)
        # The listener is foreign code: a defect in it must not fail the call it is told about.
        except Exception:
            log.exception("an event listener failed", extra={"event": type(event).__name__})
