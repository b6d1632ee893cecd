"""Every Prometheus series of a node: declared in `series`, kept here, written by `exposition`.

Nothing else knows a series' name or labels. A label has one of a few values: an RPC of the
catalogue, a word of an enumeration, or a backend, whose series go when it leaves.

Several worker processes (`proxy.workers`): each keeps a registry of its own, as here, and writes no
file. A scrape, which only the first worker answers, has the parent ask all of them, and merge what
they tell by the rule that each series declares (`series.Merge`); the parent keeps the last figures
of a worker that ended, or does not answer in time, so that no counter goes back.
"""

from proxy.metrics.node import NodeMetrics, Outcome, PoolFigures
from proxy.metrics.routing import RoutingMetrics

__all__ = ["NodeMetrics", "Outcome", "PoolFigures", "RoutingMetrics"]
