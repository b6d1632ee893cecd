"""The metrics of several workers become one exposition, and no counter goes back."""

from __future__ import annotations

import math

import pytest
from prometheus_client.core import Metric

from proxy.metrics import NodeMetrics
from proxy.metrics.declaring import Kind, Merge
from proxy.metrics.exchange import families_of, told_families
from proxy.metrics.series import DECLARED
from proxy.roles import Role
from proxy.routing.catalogue import RPCS
from proxy.workers.merging import Families, merge, retire

NAN = math.nan


def family(kind: str, rule: str, **samples: float) -> Families:
    """Return one family whose samples have the label `of`."""
    return [["f", kind, "text", "", rule, [["f", [["of", k]], v] for k, v in samples.items()]]]


def values(families: Families) -> dict[str, float]:
    """Return the samples of the one family, by their label."""
    return {labels[0][1]: value for *_, samples in families for _, labels, value in samples}


@pytest.mark.parametrize(
    ("rule", "first", "second", "expected"),
    [
        ("sum", 2.0, 3.0, 5.0),
        ("sum", math.inf, 3.0, math.inf),
        ("largest", 2.0, 3.0, 3.0),
        ("largest", NAN, 3.0, 3.0),
        ("largest", 2.0, NAN, 2.0),
        ("largest", NAN, NAN, NAN),
        ("least", 2.0, 3.0, 2.0),
        ("least", NAN, 3.0, 3.0),
        ("first", 2.0, 3.0, 2.0),
        ("first", NAN, 3.0, NAN),
    ],
)
def test_gauges_are_merged_by_the_rule_of_their_series(
    rule: str, first: float, second: float, expected: float
) -> None:
    found = values(merge([family("gauge", rule, a=first), family("gauge", rule, a=second)]))
    assert found["a"] == pytest.approx(expected, nan_ok=True)


def test_what_only_one_worker_has_is_there_once() -> None:
    merged = merge([family("gauge", "first", a=1.0), family("gauge", "first", b=2.0), []])
    assert values(merged) == {"a": 1.0, "b": 2.0}
    assert [found[:5] for found in merged] == [["f", "gauge", "text", "", "first"]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("sum", {"a": 8.0, "b": 7.0}), ("sum of present", {"a": 8.0}), ("first", {"a": 3.0})],
)
def test_what_a_worker_counted_that_ended_stays(rule: str, expected: dict[str, float]) -> None:
    ended = retire([], family("counter", rule, a=1.0, b=2.0))
    ended = retire(ended, family("counter", rule, a=4.0, b=5.0))
    assert values(merge([family("counter", rule, a=3.0)], ended)) == expected


def test_gauges_of_a_worker_that_ended_go() -> None:
    assert retire([], family("gauge", "sum", a=1.0)) == []


def test_a_worker_that_ended_again_and_again_leaves_no_more_than_once() -> None:
    ended: Families = []
    for _ in range(100):
        ended = retire(ended, family("histogram", "sum", a=1.0))
    assert values(ended) == {"a": 100.0}


def test_every_series_has_a_rule_that_suits_its_type() -> None:
    for series in DECLARED:
        if series.kind is Kind.HISTOGRAM:
            assert series.merge is Merge.SUM, series.name
        elif series.kind is Kind.COUNTER and series.name != "metastore_proxy_worker_restarts_total":
            assert series.merge in (Merge.SUM, Merge.SUM_OF_PRESENT), series.name


def ended_with(lines: list[str], start: str) -> list[str]:
    """Return the values of the samples that begin so."""
    return [line.rsplit(" ", 1)[1] for line in lines if line.startswith(start)]


async def test_the_metrics_of_real_workers_are_written_as_one() -> None:
    told = []
    for number in (1, 2):
        metrics = NodeMetrics(Role.METASTORE)
        metrics.set_ready(number == 1)
        metrics.watch_lag(lambda lag=number: float(lag))
        for _ in range(number):
            with metrics.track(RPCS["IndexMetadata"]):
                pass
        told.append(told_families(metrics.registry.collect()))
    merged = merge(told)

    async def collected() -> list[Metric]:
        return families_of(merged)

    metrics.collect = collected
    lines = (await metrics.expose()).body.decode().splitlines()
    assert ended_with(lines, "quickwit_grpc_requests_total{") == ["3.0"]
    assert ended_with(lines, "quickwit_grpc_request_duration_seconds_count{") == ["3.0"]
    assert "metastore_proxy_ready 1.0" in lines
    assert "metastore_proxy_replica_lag_seconds 2.0" in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
