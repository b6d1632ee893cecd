"""How old each replica's data may be, from positions in the WAL alone; no two clocks are compared.

A *mark* `(sent, lsn)` comes of asking a primary for its position: all that was committed before
the question left, at `sent` on this process's clock, lies at or before `lsn`. A replica that has
replayed `lsn` therefore holds all that was committed before `sent`: it is fresh as of `sent`. Its
lag is at most the time since, which grows by itself when the primary, the replica or the questions
stop. Without a mark that it has reached, its lag is unknown, which counts as too old.

Positions compare within one timeline of one cluster. With two timelines the highest holds. The
cluster is the one whose identity most primaries give; of as many, the one heard of first. An empty
identity or a timeline of 0 is unknown: such a backend is not refused, but shows no lag.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# Above this the older half of the marks is thinned out. A missing mark makes lags look larger.
_MOST_MARKS: Final = 1024


@dataclass(frozen=True, slots=True)
class Report:
    """A backend's answer to a question that left at `sent` and was answered at `received`.

    `lsn` is what a primary has written or a replica has replayed, None when it could not tell.
    What a backend says that does not reach its database (`is_reachable`) is no news of its data.
    `worker` is which of its `workers` processes answered; 0 where there is only one.
    """

    sent: float
    received: float
    in_recovery: bool
    lsn: int | None
    timeline: int
    identity: str
    node_id: str = ""
    zone: str = ""
    is_reachable: bool = True
    worker: int = 0
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Freshness:
    """What is known of a backend's data. Times are monotonic seconds.

    `lsn` is set only where it compares with the primary's: same cluster, same timeline.
    """

    fresh_as_of: float | None = None
    lsn: int | None = None

    def lag(self, now: float) -> float | None:
        """Return how old the data may be at `now`, in seconds; None when unknown."""
        return None if self.fresh_as_of is None else max(0.0, now - self.fresh_as_of)


UNKNOWN: Final = Freshness()


class Ledger:
    """Keeps the marks of the primaries and the freshness of the replicas."""

    def __init__(self) -> None:
        self.timeline = 0
        self.identity = ""
        self._freshness: dict[str, Freshness] = {}
        self._reports: dict[str, Report] = {}
        self._primaries: dict[str, str] = {}
        self._written: dict[str, int | None] = {}
        self._sent: list[float] = []
        self._lsns: list[int] = []

    @property
    def freshness(self) -> Mapping[str, Freshness]:
        """What is known, by address; a backend that is missing is unknown. A live view."""
        return MappingProxyType(self._freshness)

    def identity_of(self, address: str) -> str:
        """Return the cluster that a backend gave; empty when it has not."""
        report = self._reports.get(address)
        return report.identity if report is not None else self._primaries.get(address, "")

    def position(self, address: str) -> int | None:
        """Return the position in the WAL that a backend last told; None when it has not."""
        report = self._reports.get(address)
        return report.lsn if report is not None else self._written.get(address)

    def is_foreign(self, address: str) -> bool:
        """Tell whether the backend is known to serve another cluster."""
        given = self.identity_of(address)
        return bool(given and self.identity and given != self.identity)

    def forget(self, address: str) -> None:
        """Forget a backend that left or whose process was replaced."""
        self._freshness.pop(address, None)
        self._reports.pop(address, None)
        self._written.pop(address, None)
        if self._primaries.pop(address, None) is not None and self._primaries:
            self._settle_identity()

    # Primaries

    def heard_primary(self, address: str, report: Report) -> None:
        """Take note of a primary's answer. One in recovery, or of another cluster, makes no mark.

        An answer that came after a later question's makes none either.
        """
        if report.identity or address not in self._primaries:
            self._primaries[address] = report.identity
        if not report.is_reachable:
            return
        self._written[address] = report.lsn
        self._settle_identity()
        if self.is_foreign(address) or report.in_recovery or report.lsn is None:
            return
        if report.identity != self.identity or report.timeline < max(1, self.timeline):
            return
        if report.timeline > self.timeline:
            self._begin_timeline(report.timeline)
        self._add_mark(report.sent, report.lsn)

    def _settle_identity(self) -> None:
        known = [identity for identity in self._primaries.values() if identity]
        if not known:
            return
        # Of as many, the first: a counter keeps the order in which it met them.
        settled = Counter(known).most_common(1)[0][0]
        if settled != self.identity:
            self.identity = settled
            self._begin_timeline(0)

    def _begin_timeline(self, timeline: int) -> None:
        self.timeline = timeline
        self._sent.clear()
        self._lsns.clear()
        self._freshness.clear()

    def _add_mark(self, sent: float, lsn: int) -> None:
        if self._sent and sent <= self._sent[-1]:
            return
        # A later question with no higher an answer says more.
        while self._lsns and self._lsns[-1] >= lsn:
            self._lsns.pop()
            self._sent.pop()
        self._sent.append(sent)
        self._lsns.append(lsn)
        if len(self._sent) > _MOST_MARKS:
            half = _MOST_MARKS // 2
            self._sent[:half] = self._sent[:half:2]
            self._lsns[:half] = self._lsns[:half:2]
        for address, report in self._reports.items():
            # An answer from before the question says nothing of how the replica is since.
            if report.received >= sent:
                self._judge(address, report)

    # Replicas

    def heard_replica(self, address: str, report: Report) -> None:
        """Take note of a replica's answer."""
        before = self._reports.get(address)
        if not report.is_reachable or (before is not None and report.sent < before.sent):
            return
        self._reports[address] = report
        went_back = (
            before is not None
            and before.lsn is not None
            and report.lsn is not None
            and report.lsn < before.lsn
        )
        if went_back:
            self._freshness.pop(address, None)
        self._judge(address, report)

    def _judge(self, address: str, report: Report) -> None:
        if report.lsn is None or not self._compares(report):
            self._freshness.pop(address, None)
            return
        reached = bisect_right(self._lsns, report.lsn) - 1
        before = self._freshness.get(address, UNKNOWN).fresh_as_of
        found = self._sent[reached] if reached >= 0 else None
        known = [time for time in (before, found) if time is not None]
        self._freshness[address] = Freshness(max(known, default=None), report.lsn)

    def _compares(self, report: Report) -> bool:
        return (
            self.timeline > 0
            and report.timeline == self.timeline
            and report.identity == self.identity
        )
