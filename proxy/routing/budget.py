"""How many attempts a router may add to the calls it was given, and when a call is repeated.

Every call earns a part of an attempt; a retry or a hedge spends a whole one. What is saved is
bounded, so that a long quiet time does not pay for a storm, but it covers the calls that are in
flight together: those are what one backend's death fails at once. Over the life of a router the
added attempts are at most `reserve + ratio * calls`.
"""

from __future__ import annotations

from typing import Final

from proxy.routing.catalogue import Rpc

# Attempts that may be saved up, when fewer calls than this are in flight.
_LEAST_CAP: Final = 50.0
# Less time than this (seconds) is not worth another attempt.
LEAST_TIME: Final = 0.005


class RetryBudget:
    """Counts what is earned and spent. Not for use by several threads."""

    def __init__(self, ratio: float = 0.18, reserve: float = 10.0) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self.balance = reserve
        self.calls = 0
        self.spent = 0

    def reconfigure(self, ratio: float, reserve: float) -> None:
        """Earn at another rate from now on; a change of the reserve counts as of the start."""
        self.balance = max(0.0, self.balance + reserve - self._reserve)
        self._ratio, self._reserve = ratio, reserve

    def earn(self, in_flight: int = 0) -> None:
        """Count a call, `in_flight` of them being under way."""
        self.calls += 1
        cap = max(_LEAST_CAP, self._reserve, float(in_flight))
        # What was saved while more were in flight is not taken away.
        self.balance = max(self.balance, min(self.balance + self._ratio, cap))

    def spend(self) -> bool:
        """Take one attempt; False, and nothing taken, when there is none."""
        if self.balance < 1.0:
            return False
        self.balance -= 1.0
        self.spent += 1
        return True


def may_repeat(rpc: Rpc, *, is_backend_failure: bool, was_sent: bool, time_left: float) -> bool:
    """Tell whether a failed attempt may be followed by another, were the budget to allow it.

    A read may after a failure that another backend need not share. A write may only when it
    certainly did not happen, which is when it was not sent.
    """
    if time_left <= LEAST_TIME or not is_backend_failure:
        return False
    return rpc.is_read or not was_sent
