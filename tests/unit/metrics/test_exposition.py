"""Formats, codings and constant labels of a scrape."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from proxy.metrics import NodeMetrics
from proxy.metrics.loop import watch_loop
from proxy.roles import Role
from tests.support.metric_samples import busy
from tests.support.waiting import until

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
        # Prometheus 2.42, and 3.
        (
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
                "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            OPENMETRICS,
        ),
        (
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
                "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.2"
            ),
            OPENMETRICS,
        ),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text ; Version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;version=7.0.0", TEXT),
        ("application/openmetrics-text;q=much", TEXT),
        (";;q=,=;", TEXT),
    ],
)
async def test_the_format_is_the_one_asked_for(accept: str, kind: str) -> None:
    found = await NodeMetrics(Role.METASTORE).expose(accept)
    assert found.headers["Content-Type"] == kind
    assert found.body.endswith(b"# EOF\n") is (kind == OPENMETRICS)


@pytest.mark.parametrize("role", Role)
async def test_both_formats_say_the_same(role: Role) -> None:
    metrics = busy(role)
    text = (await metrics.expose()).body.decode()
    strict = (await metrics.expose("application/openmetrics-text")).body.decode()

    def samples(families: Iterable[Metric]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {
            (sample.name, frozenset(sample.labels.items()))
            for family in families
            for sample in family.samples
        }

    assert samples(read_text(text)) == samples(read_openmetrics(strict))
    assert "_created" not in text


@pytest.mark.parametrize(
    ("coding", "is_gzip"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0, identity", False),
        ("br", False),
    ],
)
async def test_gzip_when_it_is_accepted(coding: str, is_gzip: bool) -> None:
    metrics = NodeMetrics(Role.ROUTER)
    metrics.set_ready(True)
    found = await metrics.expose("", coding)
    assert ("Content-Encoding" in found.headers) is is_gzip
    body = gzip.decompress(found.body) if is_gzip else found.body
    assert b"metastore_proxy_ready 1.0\n" in body


async def test_constant_labels_are_on_every_sample() -> None:
    metrics = NodeMetrics(Role.METASTORE, [("environment", "test"), ("role", "mine")])
    text = (await metrics.expose()).body.decode()
    for family in read_text(text):
        for sample in family.samples:
            assert sample.labels["environment"] == "test", sample
            # A label that a series has itself stays.
            own = "metastore" if sample.name == "metastore_proxy_build_info" else "mine"
            assert sample.labels["role"] == own, sample


async def test_a_busy_event_loop_shows() -> None:
    lags: list[float] = []
    task = asyncio.create_task(watch_loop(lags.append, interval=0.01))
    await until(lambda: lags)
    lags.clear()
    until_late = asyncio.get_running_loop().time() + 0.2
    while asyncio.get_running_loop().time() < until_late:
        pass
    await until(lambda: lags)
    task.cancel()
    await asyncio.wait({task})
    assert max(lags) >= 0.15
