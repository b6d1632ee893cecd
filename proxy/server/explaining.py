"""`ExplainRoute` as messages: a question becomes a need, an explanation becomes the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

from proxy import errors
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.roles import Role
from proxy.routing import consistency
from proxy.routing.catalogue import RPCS, Rpc
from proxy.routing.consistency import Wishes
from proxy.routing.explanation import Explanation, Verdict

_NAMES: Final = ", ".join(sorted(RPCS))


class Explainer(Protocol):
    """Whoever routes calls and can tell how."""

    def explain(self, rpc_name: str, *, metadata: tuple[tuple[str, str], ...]) -> Explanation:
        """Explain where a call with this metadata would go now."""


def explain_route(explainer: Explainer, request: pb.ExplainRouteRequest) -> pb.ExplainRouteResponse:
    """Answer `ExplainRoute`. `InvalidArgument` for what is no RPC, bound, position or level."""
    _check(request)
    return response(explainer.explain(request.rpc, metadata=wishes(request)))


def explain_node(
    node_id: str, role: Role, request: pb.ExplainRouteRequest
) -> pb.ExplainRouteResponse:
    """Answer `ExplainRoute` of a node that sends no calls to others: it serves, or it refuses."""
    _check(request)
    consistency.read_wishes(wishes(request))
    serves = RPCS[request.rpc].is_read or not role.is_read_only
    reason = "it serves" if serves else "it serves a read replica, and the call is a write"
    route = "" if not serves else "replica" if role.is_read_only else "primary"
    verdict = pb.BackendVerdict(
        node_id=node_id, role=route, state="serving", eligible=serves, reason=reason
    )
    return pb.ExplainRouteResponse(
        route=route,
        verdicts=[verdict],
        explanation=f"node {node_id} ({role.value}) sends no calls to other nodes: {reason}",
    )


def explain_relay(
    explainer: Explainer,
    passes_on: Callable[[Rpc, Wishes], str | None],
    node_id: str,
    role: Role,
    request: pb.ExplainRouteRequest,
) -> pb.ExplainRouteResponse:
    """Answer `ExplainRoute` of a node that passes on what it cannot serve itself, and no write.

    `passes_on` tells why a read goes elsewhere. What a call's bound or position would find here is
    not looked at: a node that cannot meet it passes the call on.
    """
    _check(request)
    rpc, asked = RPCS[request.rpc], consistency.read_wishes(wishes(request))
    if not rpc.is_read:
        return explain_node(node_id, role, request)
    answer = explain_route(explainer, request)
    reason = passes_on(rpc, asked)
    if reason is None and asked.consistency is consistency.Consistency.PRIMARY:
        reason = "the call's consistency asks for the primary"
    own = pb.BackendVerdict(
        node_id=node_id,
        role="replica",
        state="serving",
        eligible=reason is None,
        reason=reason or "it serves the call itself",
    )
    before = f"node {node_id} passes it on, as {reason}: "
    if reason is None:
        answer.route, answer.chosen = "replica", ""
        before = f"node {node_id} serves {rpc.name} itself; when that fails, "
    answer.explanation = before + answer.explanation
    answer.verdicts.insert(0, own)
    return answer


def _check(request: pb.ExplainRouteRequest) -> None:
    if request.rpc not in RPCS:
        raise errors.InvalidArgument(
            f"field `rpc` must be one of {_NAMES}, got {request.rpc[:64]!r}"
        )
    if request.HasField("max_lag") and not (
        math.isfinite(request.max_lag) and request.max_lag >= 0
    ):
        raise errors.InvalidArgument(
            f"field `max_lag` must be seconds, not negative, got {request.max_lag!r}"
        )


def wishes(request: pb.ExplainRouteRequest) -> tuple[tuple[str, str], ...]:
    """Return the metadata that a call with the request's wishes would carry."""
    found: list[tuple[str, str]] = []
    if request.HasField("max_lag"):
        found.append((consistency.MAX_LAG, consistency.format_seconds(request.max_lag)))
    if request.min_lsn:
        found.append((consistency.MIN_LSN, request.min_lsn))
    if request.consistency:
        found.append((consistency.CONSISTENCY, request.consistency))
    if request.allow_replica:
        found.append((consistency.ALLOW_REPLICA, "true"))
    return tuple(found)


def response(explanation: Explanation) -> pb.ExplainRouteResponse:
    """Return an explanation as the answer to `ExplainRoute`."""
    choice = explanation.choice
    return pb.ExplainRouteResponse(
        route="" if choice is None else choice.route.value,
        chosen="" if choice is None else choice.backend.address,
        verdicts=[_verdict(one) for one in explanation.verdicts],
        explanation=explanation.text,
    )


def _verdict(verdict: Verdict) -> pb.BackendVerdict:
    facts = verdict.backend.facts
    return pb.BackendVerdict(
        address=verdict.backend.address,
        node_id=facts.node_id,
        role=verdict.backend.role.value,
        state=verdict.backend.state.value,
        eligible=verdict.is_eligible,
        reason=verdict.reason,
        lag=verdict.lag,
        in_flight=verdict.load.in_flight,
        latency=verdict.load.latency,
        zone=facts.zone,
    )
