"""Writing the series in the format that a scraper asks for.

Facts: `Accept` and `Accept-Encoding` are read as HTTP has it (RFC 9110): the highest `q` wins, one
of 0 is a refusal. Prometheus asks for OpenMetrics 1.0.0 first; what asks for neither format, as a
browser, gets the text format 0.0.4, in which no name or value needs more than that version has.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# A tenth of the text at a fraction of the time that more would take.
_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class Exposition:
    """The body of an answer to a scrape, and its headers."""

    body: bytes
    headers: Mapping[str, str]


class _Labelled(Collector):
    """Families whose samples have further labels; one that a sample has itself stays."""

    def __init__(self, families: Iterable[Metric], labels: Mapping[str, str]) -> None:
        self._families = families
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return map(self._with_labels, self._families) if self._labels else self._families

    def _with_labels(self, family: Metric) -> Metric:
        found = Metric(family.name, family.documentation, family.type, family.unit)
        found.samples = [
            sample._replace(labels={**self._labels, **sample.labels}) for sample in family.samples
        ]
        return found


def write(
    families: Iterable[Metric], labels: Mapping[str, str], accept: str, accept_encoding: str
) -> Exposition:
    """Return the families as text, `labels` added to each sample."""
    source = _Labelled(families, labels)
    headers = {"Vary": "Accept, Accept-Encoding"}
    if wants_openmetrics(accept):
        body = openmetrics.generate_latest(source)
        headers["Content-Type"] = OPENMETRICS
    else:
        body = generate_latest(source)
        headers["Content-Type"] = TEXT
    if _quality(accept_encoding, "gzip") > 0.0:
        body = gzip.compress(body, _LEVEL, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Exposition(body, headers)


def wants_openmetrics(accept: str) -> bool:
    """Tell whether OpenMetrics 1.0.0 is asked for, and not less than plain text."""
    asked = _quality(accept, "application/openmetrics-text", "1.0.0")
    return asked > 0.0 and asked >= _quality(accept, "text/plain", "0.0.4")


def _quality(header: str, name: str, version: str = "") -> float:
    """Return the highest `q` that a list of a header gives a name, in that version or any."""
    found = 0.0
    for item in header.split(","):
        given, *rest = (part.strip() for part in item.split(";"))
        parameters = {
            key.lower(): value for key, _, value in (part.partition("=") for part in rest)
        }
        if given.lower() == name and parameters.get("version", version) == version:
            found = max(found, _number(parameters.get("q", "1")))
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
