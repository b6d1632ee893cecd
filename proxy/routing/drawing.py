"""The power of two choices, at a cost that does not grow with the number of backends.

Of many backends two that are acceptable are found by drawing at random. Where hardly any is, a
*shortlist* of those that meet the need is made by looking at all of them, and kept for a moment; a
backend on it is still checked when it is drawn.

Of two that are about as fast the one that was given fewer calls lately counts as less busy. By the
calls in flight alone nodes of one kind on a busy machine would serve unevenly: one that the machine
favours for a moment answers sooner, so is given more, works on more at a time, and for that takes
less for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from proxy.routing.members import Backend, Load
from proxy.routing.view import ListKey, View

# Latencies below this (seconds) count as equal, and so do those within this factor of each other:
# such differences are noise. The smoothed latency of one of several equal nodes on a busy machine
# is off by half, and what is preferred for that does not stay as fast.
_LATENCY_FLOOR: Final = 0.001
_EQUAL_WITHIN: Final = 2.0
# Between those within this factor calls in flight are weighed by what each was given. It is more
# than the noise of a mean of few calls, so that a moment's stall does not end the evening out.
_EVEN_WITHIN: Final = 4.0
# One that was given so many calls more than another lately would count as twice as busy, one given
# a part of it as busier by that part; but never by more than a half.
_GIVEN_MORE: Final = 16.0
_BUSIER: Final = 0.5
# Up to so many candidates are all looked at; of more, so many are drawn.
_FEW: Final = 12
_DRAWS: Final = 8
# Seconds for which a shortlist is kept, and how many are.
_KEPT: Final = 0.1
_MOST_LISTS: Final = 64

Accepts = Callable[[Backend], bool]


def draw(
    backends: tuple[Backend, ...],
    meets: Accepts,
    accepts: Accepts,
    view: View,
    rng: Random,
    *,
    key: ListKey,
) -> Backend | None:
    """Return an acceptable backend that is not the busier of two; None when there is none.

    `meets` tells whether a backend meets the need that `key` stands for, `accepts` whether it may
    take this very call, which includes that.
    """
    if len(backends) <= _FEW:
        return _least_of([backend for backend in backends if accepts(backend)], view, rng)
    short = _kept(backends, view, key)
    if short is None:
        found = _two_of(backends, accepts, rng)
        if len(found) == 2:
            return _least_of(found, view, rng)
        short = _shortlist(backends, meets, view, key)
    found = _two_of(short, accepts, rng) if short else []
    if not found and len(short) <= _FEW:
        found = [backend for backend in short if accepts(backend)]
    return _least_of(found, view, rng)


def _two_of(backends: Sequence[Backend], accepts: Accepts, rng: Random) -> list[Backend]:
    found: list[Backend] = []
    count = len(backends)
    for _ in range(_DRAWS):
        backend = backends[int(rng.random() * count)]
        if accepts(backend):
            if not found:
                found.append(backend)
            elif found[0] is not backend:
                found.append(backend)
                break
    return found


def _kept(backends: tuple[Backend, ...], view: View, key: ListKey) -> tuple[Backend, ...] | None:
    if not view.shortlists:
        return None
    until, made_of, short = view.shortlists.get(key, (0.0, (), ()))
    return short if made_of is backends and view.now < until else None


def _shortlist(
    backends: tuple[Backend, ...], meets: Accepts, view: View, key: ListKey
) -> tuple[Backend, ...]:
    if len(view.shortlists) >= _MOST_LISTS:
        view.shortlists.clear()
    short = tuple(backend for backend in backends if meets(backend))
    view.shortlists[key] = (view.now + _KEPT, backends, short)
    return short


def _least_of(backends: Sequence[Backend], view: View, rng: Random) -> Backend | None:
    return least_loaded(backends, view, rng) if backends else None


def least_loaded(backends: Sequence[Backend], view: View, rng: Random) -> Backend:
    """Return one of `backends`, of which there is at least one, by the power of two choices."""
    count = len(backends)
    if count == 1:
        return backends[0]
    first = rng.randrange(count)
    # Drawn from the others, so that the two always differ.
    second = (first + 1 + rng.randrange(count - 1)) % count
    return _better(backends[first], backends[second], view, rng)


def _better(one: Backend, other: Backend, view: View, rng: Random) -> Backend:
    load, other_load = view.load(one), view.load(other)
    strength, other_strength = view.strength(one), view.strength(other)
    more = 0.0
    if strength == other_strength and _are_within(_EVEN_WITHIN, load, other_load):
        more = load.given_until(view.now) - other_load.given_until(view.now)
    busy = load.in_flight * other_strength * _weight(more)
    other_busy = other_load.in_flight * strength * _weight(-more)
    if busy != other_busy:
        return one if busy < other_busy else other
    if more and _are_within(_EQUAL_WITHIN, load, other_load):
        return one if more < 0.0 else other
    odds = _odds(load, other_load)
    mine, others = odds * strength, (1.0 - odds) * other_strength
    return one if rng.random() * (mine + others) < mine else other


def _weight(more: float) -> float:
    """Return how much a call in flight counts for a backend that was given `more` lately."""
    return 1.0 + min(_BUSIER, max(0.0, more / _GIVEN_MORE))


def _are_within(factor: float, load: Load, other: Load) -> bool:
    """Tell whether the latencies of two that were measured differ by less than `factor`."""
    if load.latency == 0.0 or other.latency == 0.0:
        return False
    latency = max(load.latency, _LATENCY_FLOOR)
    other_latency = max(other.latency, _LATENCY_FLOOR)
    return latency < other_latency * factor and other_latency < latency * factor


def _odds(load: Load, other: Load) -> float:
    """Return the probability of the first of two with as many calls in flight."""
    if load.latency == 0.0 or other.latency == 0.0 or _are_within(_EQUAL_WITHIN, load, other):
        return 0.5
    latency = max(load.latency, _LATENCY_FLOOR)
    other_latency = max(other.latency, _LATENCY_FLOOR)
    return other_latency / (latency + other_latency)
