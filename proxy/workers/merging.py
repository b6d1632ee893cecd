"""One exposition of the metrics of several processes.

A process tells its families as JSON values, each with the rule by which its samples are merged
(`proxy.metrics.series.Merge`); so whoever merges needs to know no series. Counters and histograms
are summed, also with what workers counted that have ended, so that no sum goes back.

A family is `[name, type, help, unit, rule, samples]`, a sample `[name, [[label, value], ...],
number]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

Family: TypeAlias = list[Any]
Families: TypeAlias = list[Family]
_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]

SUM: Final = "sum"
# Summed; what workers counted that have ended counts only where a living one has the sample too:
# what it is about may have left.
SUM_OF_PRESENT: Final = "sum of present"
LARGEST: Final = "largest"
LEAST: Final = "least"
FIRST: Final = "first"

_ACCUMULATING: Final = frozenset({"counter", "histogram"})


def merge(living: Sequence[Families], ended: Sequence[Family] = ()) -> Families:
    """Return the families of all workers as one; `living` in their order, the first one's first.

    `ended` is what `retire` has gathered.
    """
    merged = _Merged()
    for families in living:
        for family in families:
            merged.add(family)
    for family in ended:
        merged.add_ended(family)
    return merged.families()


def retire(ended: Sequence[Family], last: Sequence[Family]) -> Families:
    """Return what workers that ended have counted, with the last figures of one more."""
    merged = _Merged()
    for family in (*ended, *last):
        if family[1] in _ACCUMULATING and family[4] in (SUM, SUM_OF_PRESENT):
            merged.add(family)
    return merged.families()


class _Merged:
    def __init__(self) -> None:
        self._heads: dict[str, Family] = {}
        self._samples: dict[str, dict[_Key, float]] = {}

    def add(self, family: Family) -> None:
        name, rule = family[0], family[4]
        self._heads.setdefault(name, family[:5])
        samples = self._samples.setdefault(name, {})
        fold = _FOLDS[rule]
        for key, value in _samples(family):
            samples[key] = fold(samples[key], value) if key in samples else value

    def add_ended(self, family: Family) -> None:
        name, rule = family[0], family[4]
        self._heads.setdefault(name, family[:5])
        samples = self._samples.setdefault(name, {})
        for key, value in _samples(family):
            if key in samples:
                samples[key] += value
            elif rule == SUM:
                samples[key] = value

    def families(self) -> Families:
        return [
            [
                *head,
                [
                    [sample, [list(pair) for pair in labels], value]
                    for (sample, labels), value in self._samples[name].items()
                ],
            ]
            for name, head in self._heads.items()
        ]


def _samples(family: Family) -> Iterable[tuple[_Key, float]]:
    for name, labels, value in family[5]:
        yield (name, tuple((label, text) for label, text in labels)), value


def _add(one: float, other: float) -> float:
    return one + other


def _first(one: float, _other: float) -> float:
    return one


def _known(choose: Callable[[float, float], float]) -> Callable[[float, float], float]:
    """Return a fold that leaves out what is unknown, as long as anything is known."""

    def fold(one: float, other: float) -> float:
        if math.isnan(one):
            return other
        return one if math.isnan(other) else choose(one, other)

    return fold


_FOLDS: Final[dict[str, Callable[[float, float], float]]] = {
    SUM: _add,
    SUM_OF_PRESENT: _add,
    LARGEST: _known(max),
    LEAST: _known(min),
    FIRST: _first,
}
