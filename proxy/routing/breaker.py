"""When a backend that keeps failing is left alone, and how it comes back.

States of a breaker::

    CLOSED     --failures in a row, or too large a part fails--> OPEN
    OPEN       --its pause is over-----------------------------> HALF_OPEN
    HALF_OPEN  --the trial succeeds----------------------------> CLOSED
    HALF_OPEN  --the trial fails-------------------------------> OPEN, twice as long
    HALF_OPEN  --the trial is never heard of again-------------> HALF_OPEN, one more trial
    OPEN, HALF_OPEN --a new connection, a trial taken back-----> OPEN, its pause over

Each pause is drawn from the upper half of its length, so that routers do not try a backend all at
the same moment. A breaker says nothing of other backends: it is the same with two and with twenty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final

# How much one more call weighs in the smoothed part of calls that fail.
_WEIGHT: Final = 0.1
# Successes in a row after which earlier openings are forgotten.
_FORGIVEN_AFTER: Final = 10
_MOST_DOUBLINGS: Final = 16


class BreakerState(Enum):
    """The module's text has the transitions."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When breakers open and for how long. Times are seconds.

    failures      in a row that open it
    part          of the calls that must fail to open it, once `least_calls` were seen
    pause         the first; each further opening doubles it, up to `most_pause`
    trial_time    after which a trial that has not ended is given up
    """

    failures: int = 3
    part: float = 0.5
    least_calls: int = 10
    pause: float = 0.5
    most_pause: float = 10.0
    trial_time: float = 5.0


DEFAULT_BREAKER: Final = BreakerPolicy()


@dataclass(frozen=True, slots=True)
class Breaker:
    """What is remembered of one backend's calls. `until` is monotonic seconds.

    In OPEN `until` is when the pause ends; in HALF_OPEN when the next trial may begin.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    successes: int = 0
    failing: float = 0.0
    calls: int = 0
    openings: int = 0
    until: float = 0.0

    def allows(self, now: float) -> bool:
        """Tell whether a call may be sent at `now`; in OPEN and HALF_OPEN it is the trial."""
        return self.state is BreakerState.CLOSED or now >= self.until

    def begun(self, now: float, policy: BreakerPolicy) -> Breaker:
        """Return the breaker after a call was sent."""
        if self.state is BreakerState.CLOSED or now < self.until:
            return self
        return replace(self, state=BreakerState.HALF_OPEN, until=now + policy.trial_time)

    def succeeded(self) -> Breaker:
        """Return the breaker after a call succeeded; one from before it opened says nothing."""
        if self.state is BreakerState.OPEN:
            return self
        if self.state is BreakerState.HALF_OPEN:
            return Breaker(successes=1, openings=self.openings)
        successes = self.successes + 1
        return replace(
            self,
            failures=0,
            successes=successes,
            failing=self.failing * (1.0 - _WEIGHT),
            calls=self.calls + 1,
            openings=0 if successes >= _FORGIVEN_AFTER else self.openings,
        )

    def failed(self, now: float, policy: BreakerPolicy, rng: Random) -> Breaker:
        """Return the breaker after a call failed; one from before it opened changes nothing."""
        if self.state is BreakerState.OPEN:
            return self
        if self.state is BreakerState.HALF_OPEN:
            return self._opened(now, policy, rng)
        found = replace(
            self,
            failures=self.failures + 1,
            successes=0,
            failing=self.failing + _WEIGHT * (1.0 - self.failing),
            calls=self.calls + 1,
        )
        too_many = found.calls >= policy.least_calls and found.failing >= policy.part
        if found.failures >= policy.failures or too_many:
            return found._opened(now, policy, rng)
        return found

    def reconnected(self, now: float) -> Breaker:
        """Return the breaker whose pause, or wait for a trial, ends at `now`."""
        if self.state is BreakerState.CLOSED:
            return self
        return replace(self, state=BreakerState.OPEN, until=now)

    def _opened(self, now: float, policy: BreakerPolicy, rng: Random) -> Breaker:
        full = policy.pause * 2.0 ** min(self.openings, _MOST_DOUBLINGS)
        pause = min(full, policy.most_pause) * rng.uniform(0.5, 1.0)
        return Breaker(BreakerState.OPEN, openings=self.openings + 1, until=now + pause)
