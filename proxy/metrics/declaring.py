"""What there is to declare of a series; `proxy.metrics.series` declares them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The type of a series."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(Enum):
    """How the samples of a node's workers become one; see `proxy.workers.merging`.

    Counters and histograms are summed. Of gauges, what a process holds is summed; of what each
    worker finds out for itself the worst counts; what all must agree on, or only the first one
    knows, is the first one's.
    """

    SUM = "sum"
    SUM_OF_PRESENT = "sum of present"
    LARGEST = "largest"
    LEAST = "least"
    FIRST = "first"


class Nodes(Enum):
    """Which nodes export a series; ROUTING is routers and replica nodes with `proxy.forward`."""

    ALL = "all"
    DATABASE = "database"
    PRIMARY = "metastore"
    REPLICA = "replica"
    ROUTING = "routing"
    GOSSIP = "gossip"
    TLS = "TLS"
    WORKERS = "workers"


@dataclass(frozen=True, slots=True)
class Series:
    """One series. `is_late` when it has no sample before its first event."""

    name: str
    kind: Kind
    nodes: Nodes
    labels: tuple[str, ...]
    text: str
    is_late: bool = False
    buckets: tuple[float, ...] = ()
    merge: Merge = Merge.SUM


def counter(
    name: str,
    nodes: Nodes,
    text: str,
    labels: tuple[str, ...] = (),
    *,
    is_late: bool = False,
    merge: Merge = Merge.SUM,
) -> Series:
    """Declare a counter."""
    return Series(name, Kind.COUNTER, nodes, labels, text, is_late, merge=merge)


def gauge(
    name: str, nodes: Nodes, text: str, labels: tuple[str, ...] = (), *, merge: Merge
) -> Series:
    """Declare a gauge, with the rule by which those of workers are merged."""
    return Series(name, Kind.GAUGE, nodes, labels, text, merge=merge)


def histogram(
    name: str,
    nodes: Nodes,
    text: str,
    labels: tuple[str, ...] = (),
    *,
    buckets: tuple[float, ...],
    is_late: bool = False,
) -> Series:
    """Declare a histogram."""
    return Series(name, Kind.HISTOGRAM, nodes, labels, text, is_late, buckets)
