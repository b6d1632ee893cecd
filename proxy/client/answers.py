"""What a call gives back: the response, and who served it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypedDict, TypeVar

from proxy.routing import consistency
from proxy.routing.consistency import Consistency
from proxy.routing.selection import Choice, Route

R = TypeVar("R")

_ROUTES: Final = {route.value for route in Route}

Metadata = Sequence[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """What every call accepts.

    timeout       for all attempts together, in seconds
    metadata      goes to the node; what it says of consistency goes before the options here
    consistency   in place of the client's
    min_lsn       a position (`X/Y`, another client's `answer.lsn`) that the answer must include
    """

    timeout: float | None
    metadata: Metadata
    consistency: Consistency | None
    min_lsn: str | None


@dataclass(frozen=True, slots=True)
class Served:
    """Who served a call and how it got there (routing rule 6).

    `served_by` is the node's ID; a node that does not say (Quickwit's own) is named by its
    address. `role` is what the node calls itself, else what the client takes it for. `route` is
    `replica`, `primary`, `fallback` or `stale`. `lag` is an upper bound in seconds when the call
    was sent, None when unknown. `lsn` is a position at or after everything the call wrote or saw,
    None unless it was asked for: every write asks, and every call of a client that needs it.
    `metadata` is all that came with the answer, the first `headers` items of it before the answer.
    """

    served_by: str
    role: str
    route: str
    lag: float | None
    backend: str
    lsn: str | None
    metadata: Metadata
    headers: int


@dataclass(frozen=True, slots=True)
class Answer(Served, Generic[R]):
    """A response with the facts of `Served`."""

    response: R


_Facts = tuple[str, str, str, float | None, str, str | None, Metadata, int]


def read_served(
    choice: Choice,
    headers: Iterable[tuple[str, Any]] | None,
    trailers: Iterable[tuple[str, Any]] | None,
    lag: float | None = None,
) -> Served:
    """Return the facts about an answer from the metadata before and after it; see `read_answer`."""
    return Served(*_facts(choice, headers, trailers, lag))


def read_answer(
    choice: Choice,
    headers: Iterable[tuple[str, Any]] | None,
    trailers: Iterable[tuple[str, Any]] | None,
    lag: float | None,
    response: R,
) -> Answer[R]:
    """Return an answer with what the metadata before and after it tell.

    `lag` is what the client itself knew of the backend when it chose it, and goes before what the
    node says: it depends on no two clocks. A node that routed the call itself knows better.
    """
    return Answer(*_facts(choice, headers, trailers, lag), response)


def _facts(
    choice: Choice,
    headers: Iterable[tuple[str, Any]] | None,
    trailers: Iterable[tuple[str, Any]] | None,
    lag: float | None,
) -> _Facts:
    before = tuple(headers or ())
    said = (*before, *(trailers or ()))
    found = {key: value for key, value in said if isinstance(value, str)}
    backend = choice.backend
    route = found.get(consistency.ROUTE)
    if route in _ROUTES:
        lag = None
    return (
        found.get(consistency.SERVED_BY) or backend.address,
        found.get(consistency.ROLE) or backend.role.value,
        route if route in _ROUTES else choice.route.value,
        consistency.parse_lag(found.get(consistency.LAG)) if lag is None else lag,
        backend.address,
        _lsn(found.get(consistency.LSN)),
        said,
        len(before),
    )


def _lsn(text: str | None) -> str | None:
    return text if text is not None and consistency.parse_lsn(text) is not None else None


def answer(response: R, served: Served) -> Answer[R]:
    """Join a response with the facts about it."""
    return Answer(
        served.served_by,
        served.role,
        served.route,
        served.lag,
        served.backend,
        served.lsn,
        served.metadata,
        served.headers,
        response,
    )
