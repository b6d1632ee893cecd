"""Every Prometheus series of a node: declared in `series`, kept here, written by `exposition`.

Nothing else knows a series' name or labels. A label has one of a few values: an RPC of the
catalogue, a word of an enumeration, or a backend, whose series go when it leaves.

Several worker processes on one port, once there are any: a scrape must answer for all of them. Each
worker keeps a registry of its own, as here, and writes no file. The parent, which alone listens on
the REST port, asks each worker over its pipe for the families that the registry collects, merges
them and hands the result to `exposition.write`. Counters and histograms are summed; the last
figures of a worker that ended, or does not answer in time, stay in the sum, so that no counter goes
back. Of gauges, what a process holds (connections, calls in flight, the retry budget) is summed,
`metastore_proxy_ready` is the least, ages and lags are the largest, NaN only where all are, and
positions the least; `process_*` get a label `worker`.
"""

from proxy.metrics.node import NodeMetrics, Outcome, PoolFigures
from proxy.metrics.routing import RoutingMetrics

__all__ = ["NodeMetrics", "Outcome", "PoolFigures", "RoutingMetrics"]
