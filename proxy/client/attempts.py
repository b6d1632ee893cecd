"""A call under way, its attempts, and what a failed attempt says of its backend."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Final

from proxy import errors
from proxy.client.answers import Metadata
from proxy.client.connection import Connection
from proxy.client.session import Terms
from proxy.client.wire import Failure, is_backend_failure, is_shed
from proxy.errors import Code
from proxy.routing.board import Outcome
from proxy.routing.catalogue import Rpc
from proxy.routing.members import BackendRole
from proxy.routing.selection import Choice
from proxy.tracing import Span

# A call that was given less time than this (seconds) says nothing of its backend when it runs out.
LEAST_HANG: Final = 0.1


@dataclass
class Call:
    """A call under way. Times are monotonic seconds; `tried` and `shed_by` hold addresses.

    `shed_by` are those of `tried` that only were too busy, since the call last came back to them;
    `shed_since` is when the first was. `doubted` failed in a way that may be the request's fault.
    """

    rpc: Rpc
    timeout: float
    terms: Terms
    started: float
    tried: set[str] = field(default_factory=set)
    shed_by: set[str] = field(default_factory=set)
    shed_since: float | None = None
    doubted: list[Choice] = field(default_factory=list)
    returns: int = 0
    attempts: int = 0
    last: Failure | None = None
    last_backend: str = ""

    def refused(self) -> None:
        """Take note that a replica did not reach the position asked for in the time it waits.

        The others are not asked in turn: the wait would add up, and the primary has it.
        """
        if self.terms.need.min_lsn is not None:
            need = replace(self.terms.need, has_waited=True)
            self.terms = replace(self.terms, need=need)

    @property
    def time_left(self) -> float:
        """Seconds until the deadline of the whole call; negative past it."""
        return self.started + self.timeout - time.monotonic()


@dataclass
class Attempt:
    """One try of a call on one backend; in flight from its start until `Failover.end`."""

    call: Call
    choice: Choice
    connection: Connection
    epoch: int
    started: float
    lag: float | None
    span: Span | None = None
    is_ended: bool = False

    @property
    def metadata(self) -> Metadata:
        """What goes along to this attempt's backend."""
        metadata = self.call.terms.metadata_for(self.call.rpc, self.choice.backend)
        return metadata if self.span is None else self.span.carry(metadata)


def is_refusal(attempt: Attempt, failure: Failure) -> bool:
    """Tell whether a node refused a call for what it asks of its data, not for being unwell."""
    if not failure.is_explicit or not isinstance(failure.error, errors.Unavailable):
        return False
    need = attempt.call.terms.need
    is_primary = attempt.choice.backend.role is BackendRole.PRIMARY
    # A bound in seconds is told to primaries only: see `Terms.metadata_for`.
    return need.min_lsn is not None or (is_primary and need.max_lag is not None)


def is_doubtful(failure: Failure) -> bool:
    """Tell whether a failure may be the request's fault: every backend would then fail it.

    Facts: nodes answer `Internal` to some requests that are wrong, as to an index ID pattern that
    is none. Whoever sends such a request again and again must not get the backends ejected.
    """
    return failure.is_explicit and isinstance(failure.error, errors.Internal)


def outcome_of(attempt: Attempt, code: Code, failure: Failure | None, seconds: float) -> Outcome:
    """Return what the end of an attempt says of its backend, for the breaker."""
    if code is Code.OK:
        return Outcome.ANSWERED
    if failure is None or is_shed(failure) or is_refusal(attempt, failure) or is_doubtful(failure):
        return Outcome.SILENT
    if not is_backend_failure(failure):
        return Outcome.ANSWERED
    if attempt.connection.is_closing or (is_deadline(failure) and seconds < LEAST_HANG):
        return Outcome.SILENT
    return Outcome.FAILED


def is_deadline(failure: Failure) -> bool:
    """Tell whether an attempt ran out of its own time, rather than the node's telling so."""
    return failure.code is Code.DEADLINE_EXCEEDED and not failure.is_explicit
