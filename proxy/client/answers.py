"""What a call gives back: the response, and who served it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

from proxy.routing import consistency
from proxy.routing.selection import Choice

R = TypeVar("R")

Metadata = Sequence[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """What every call accepts: `timeout` for all attempts together, in seconds, and metadata."""

    timeout: float | None
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Served:
    """Who served a call and how it got there (routing rule 6).

    `served_by` is the node's ID; a node that does not say (Quickwit's own) is named by its
    address. `role` is what the node calls itself, else what the client takes it for. `route` is
    `replica`, `primary` or `fallback`. `lag` is an upper bound in seconds, None when unknown.
    """

    served_by: str
    role: str
    route: str
    lag: float | None
    backend: str


@dataclass(frozen=True, slots=True)
class Answer(Served, Generic[R]):
    """A response with the facts of `Served`."""

    response: R


def read_served(choice: Choice, metadata: Iterable[tuple[str, Any]] | None) -> Served:
    """Return the facts about an answer from the metadata it came with."""
    found = {key: value for key, value in metadata or () if isinstance(value, str)}
    backend = choice.backend
    return Served(
        served_by=found.get(consistency.SERVED_BY) or backend.address,
        role=found.get(consistency.ROLE) or backend.role.value,
        route=choice.route.value,
        lag=consistency.parse_lag(found.get(consistency.LAG)),
        backend=backend.address,
    )


def answer(response: R, served: Served) -> Answer[R]:
    """Join a response with the facts about it."""
    return Answer(served.served_by, served.role, served.route, served.lag, served.backend, response)
