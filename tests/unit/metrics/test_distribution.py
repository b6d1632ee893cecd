"""Plain numbers are exported exactly as the library exports its own histograms and counters."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

from proxy.errors import Code
from proxy.metrics import NodeMetrics, series
from proxy.metrics.distribution import Distributions
from proxy.roles import Role
from proxy.routing.catalogue import RPCS

VALUES = (0.0, 0.0009999, 0.001, 0.0010001, 0.02, 9.99, 10.0, 10.1, 1e9)


def lines(registry: CollectorRegistry, name: str) -> set[str]:
    text = generate_latest(registry).decode()
    return {line for line in text.splitlines() if name in line}


def test_a_distribution_is_exported_as_the_librarys_histogram() -> None:
    disable_created_metrics()
    declared = series.POOL_WAIT
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distributions = Distributions()
    ours.register(distributions)
    mine = distributions.add(declared)
    library = Histogram(declared.name, declared.text, buckets=declared.buckets, registry=theirs)
    assert lines(ours, declared.name) == lines(theirs, declared.name)
    for value in VALUES:
        mine.observe(value)
        library.observe(value)
    assert lines(ours, declared.name) == lines(theirs, declared.name)
    assert mine.count == len(VALUES)


@pytest.mark.parametrize("ending", ["well", "badly", "cancelled"])
def test_a_call_is_exported_as_the_librarys_counter_would(ending: str) -> None:
    metrics = NodeMetrics(Role.METASTORE)
    rpc = RPCS["IndexMetadata"]
    requests = series.REQUESTS
    theirs = CollectorRegistry()
    library = Counter(requests.name, requests.text, requests.labels, registry=theirs)
    status, code = {
        "well": ("success", Code.OK),
        "badly": ("error", Code.NOT_FOUND),
        "cancelled": ("cancelled", Code.CANCELLED),
    }[ending]
    where = ("metastore", "metastore", "server", "primary", rpc.metric_name)
    for _ in range(3):
        with metrics.track(rpc) as outcome:
            under_way = lines(metrics.registry, series.IN_FLIGHT.name)
            assert any(rpc.metric_name in line and line.endswith(" 1.0") for line in under_way)
            outcome.code, outcome.is_cancelled = code, ending == "cancelled"
        library.labels(*where, status, code.name.lower()).inc()
    assert lines(metrics.registry, requests.name) == lines(theirs, requests.name)
    timed = lines(metrics.registry, f"{series.DURATIONS.name}_count")
    assert [line.endswith(" 3.0") for line in timed] == [True]
    assert not any(
        line.endswith(" 1.0") for line in lines(metrics.registry, f"{series.IN_FLIGHT.name}{{")
    )
