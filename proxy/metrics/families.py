"""Making the declared series, and looking up the children of one that has labels only once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from proxy.metrics.declaring import Kind, Series

# Label values in the order of the series' labels, and the value.
Sample = tuple[tuple[str, ...], float]

F = TypeVar("F", bound=MetricWrapperBase)


class Family(Generic[F]):
    """A series with labels; `family[values]` is the child, looked up in the library only once."""

    def __init__(self, family: F) -> None:
        self._family = family
        self._children: dict[tuple[str, ...], F] = {}

    def __getitem__(self, values: tuple[str, ...]) -> F:
        """Return the child of label values, in the order of the series' labels."""
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = self._family.labels(*values)
        return found

    def forget(self, *first: str) -> None:
        """Remove the children whose label values begin so."""
        for values in [found for found in self._children if found[: len(first)] == first]:
            del self._children[values]
            self._family.remove(*values)


def counter(series: Series, registry: CollectorRegistry | None) -> Counter:
    """Return a counter; one without a registry counts and is not exported."""
    return Counter(series.name, series.text, series.labels, registry=registry)


def gauge(series: Series, registry: CollectorRegistry | None) -> Gauge:
    """Return a gauge; as `counter`."""
    return Gauge(series.name, series.text, series.labels, registry=registry)


def histogram(series: Series, registry: CollectorRegistry | None) -> Histogram:
    """Return a histogram; as `counter`."""
    return Histogram(
        series.name, series.text, series.labels, buckets=series.buckets, registry=registry
    )


def known(value: float | None) -> float:
    """Return a value as it is exported: NaN for one that is unknown."""
    return math.nan if value is None else float(value)


class Watched(Collector):
    """Series whose samples are read at each scrape, so that none of what is gone stays."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[Series, Callable[[], Iterable[Sample]]]] = {}

    def add(self, series: Series, read: Callable[[], Iterable[Sample]]) -> None:
        """Export what `read` returns; a second call for a series replaces the first."""
        self._sources[series.name] = (series, read)

    def collect(self) -> Iterator[Metric]:
        """Return the families."""
        for series, read in self._sources.values():
            yield family_of(series, read())


def family_of(series: Series, samples: Iterable[Sample]) -> Metric:
    """Return a counter's or a gauge's family with its samples."""
    if series.kind is Kind.COUNTER:
        name = series.name.removesuffix("_total")
        counted = CounterMetricFamily(name, series.text, labels=series.labels)
        for values, value in samples:
            counted.add_metric(values, value)
        return counted
    family = GaugeMetricFamily(series.name, series.text, labels=series.labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
