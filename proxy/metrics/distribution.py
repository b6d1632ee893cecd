"""Histograms and counters of calls as plain numbers, made into families at a scrape.

What the library's own cost, locks and checks of labels and all, is a tenth of what a node spends on
a small read. For one event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from proxy.errors import Code
from proxy.metrics.declaring import Series
from proxy.metrics.families import family_of


class Distribution:
    """Observations counted by the bucket they fall into."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Add the samples to a family."""
        names = (*map(floatToGoString, self._bounds), "+Inf")
        buckets = [*zip(names, map(float, accumulate(self._counts)), strict=True)]
        family.add_metric(labels, buckets, self._sum)


class Distributions(Collector):
    """Exports distributions without labels, each as a series of its own."""

    def __init__(self) -> None:
        self._all: list[tuple[Series, Distribution]] = []

    def add(self, series: Series) -> Distribution:
        """Return what counts a series; exported from now on."""
        made = Distribution(series.buckets)
        self._all.append((series, made))
        return made

    def collect(self) -> Iterator[Metric]:
        """Return the families."""
        for series, distribution in self._all:
            family = HistogramMetricFamily(series.name, series.text)
            distribution.add_to(family, ())
            yield family


class CallCounts(Collector):
    """Calls: how many are under way, how those that ended did, and after how long.

    `labels` are the values of the series' first labels by the name of the RPC; those of calls that
    ended have two more, the status and the code.
    """

    def __init__(
        self,
        labels: Mapping[str, tuple[str, ...]],
        *,
        in_flight: Series,
        requests: Series,
        durations: Series,
    ) -> None:
        self._labels = labels
        self._series = (in_flight, requests, durations)
        self.in_flight = dict.fromkeys(labels, 0)
        self._ended: dict[tuple[str, str, Code], Distribution] = {}

    def ended(self, name: str, status: str, code: Code, seconds: float) -> None:
        """Count a call that has ended."""
        found = self._ended.get((name, status, code))
        if found is None:
            found = self._ended[name, status, code] = Distribution(self._series[2].buckets)
        found.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Return the families."""
        in_flight, requests, durations = self._series
        yield family_of(in_flight, self._under_way())
        counted = CounterMetricFamily(
            requests.name.removesuffix("_total"), requests.text, labels=requests.labels
        )
        timed = HistogramMetricFamily(durations.name, durations.text, labels=durations.labels)
        for (name, status, code), distribution in self._ended.items():
            values = (*self._labels[name], status, code.name.lower())
            counted.add_metric(values, float(distribution.count))
            distribution.add_to(timed, values)
        yield counted
        yield timed

    def _under_way(self) -> Iterable[tuple[tuple[str, ...], float]]:
        return [(self._labels[name], float(count)) for name, count in self.in_flight.items()]
