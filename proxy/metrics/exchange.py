"""Families of metrics as JSON values, each with the rule by which those of workers are merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from prometheus_client.core import Metric

from proxy.metrics.declaring import Merge
from proxy.metrics.series import DECLARED, LIBRARYS

# The library calls a counter's family without its ending.
_RULES: Final = {
    **{name.removesuffix("_total"): rule.value for name, rule in LIBRARYS.items()},
    **{series.name.removesuffix("_total"): series.merge.value for series in DECLARED},
}


def told_families(families: Iterable[Metric]) -> list[list[Any]]:
    """Return families for `proxy.workers.merging`."""
    return [
        [
            family.name,
            family.type,
            family.documentation,
            family.unit,
            _RULES.get(family.name, Merge.FIRST.value),
            [
                [sample.name, list(sample.labels.items()), float(sample.value)]
                for sample in family.samples
            ],
        ]
        for family in families
    ]


def families_of(told: Iterable[Sequence[Any]]) -> list[Metric]:
    """Return families that were merged."""
    found = []
    for name, kind, text, unit, _rule, samples in told:
        family = Metric(name, text, kind, unit)
        for sample, labels, value in samples:
            family.add_sample(sample, dict(labels), value)
        found.append(family)
    return found
