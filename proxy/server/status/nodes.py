"""The nodes that a node knows, each once: what gossip tells, joined to what its own calls show.

Pure. A backend is the member that has its address, else the one that has its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.gossip import keys
from proxy.gossip.services import rest_address
from proxy.gossip.view import ClusterView, MemberView
from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.roles import Role
from proxy.routing.figures import ELIGIBLE, BackendFigures, Figures
from proxy.routing.members import BackendRole
from proxy.server.status.cleaning import MOST_TEXT, clean
from proxy.server.status.reasons import REASONS

PRIMARY: Final = "primary"
REPLICA: Final = "replica"
ROUTER: Final = "router"
OTHER: Final = "other"
_ORDER: Final = (PRIMARY, REPLICA, ROUTER, OTHER)
_KINDS: Final = {
    Role.METASTORE.value: PRIMARY,
    Role.READ_REPLICA.value: REPLICA,
    Role.ROUTER.value: ROUTER,
}
# More than that nobody reads, and no answer should grow with a cluster's size.
MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Myself:
    """What a node knows of itself better than gossip does. `lag` is seconds, None for unknown."""

    node_id: str
    role: Role
    is_ready: bool
    lag: float | None


def known_nodes(
    me: Myself, view: ClusterView | None, figures: Figures | None, *, unix: Callable[[float], float]
) -> tuple[Sequence[pb.StatusNode], int]:
    """Return the nodes, primaries first, and how many are left out of them for want of room.

    `unix` turns monotonic seconds into Unix seconds.
    """
    backends = {one.backend.address: one for one in (() if figures is None else figures.backends)}
    names = {one.backend.facts.node_id: address for address, one in backends.items()}
    members = sorted(
        () if view is None else view.members,
        key=lambda member: (_ORDER.index(_kind(member)), member.node_id),
    )
    joined = [(member, _taken(backends, names, member)) for member in members]
    left_out = max(0, len(joined) + len(backends) - MOST)
    found = [_stranger(one) for one in list(backends.values())[:MOST]]
    found += [_member(member, me, backend) for member, backend in joined[: MOST - len(found)]]
    for node, backend in found:
        if backend is not None:
            _add_backend(node, backend, unix)
    nodes = sorted(
        (node for node, _ in found), key=lambda node: (_ORDER.index(node.kind), node.name)
    )
    return nodes, left_out


_Joined = tuple[pb.StatusNode, BackendFigures | None]


def _taken(
    backends: dict[str, BackendFigures], names: Mapping[str, str], member: MemberView
) -> BackendFigures | None:
    """Return, and take out, the backend that a member is."""
    address = member.grpc_address or ""
    if address not in backends:
        address = names.get(member.node_id, "")
    return backends.pop(address, None)


def _member(member: MemberView, me: Myself, backend: BackendFigures | None) -> _Joined:
    known = member.keys
    node = pb.StatusNode(
        name=clean(member.node_id),
        kind=_kind(member),
        is_self=member.is_self,
        state=_state(member, me),
        version=clean(known.get(keys.VERSION)),
        zone=clean(member.availability_zone),
        services=",".join(sorted(member.services)),
        grpc_address=member.grpc_address or "",
        rest_address=rest_address(member) or "",
        gossip_address=member.gossip_address,
    )
    if node.kind == REPLICA and member.is_live:
        _add_lag(node, me, keys.lag_of(known.get(keys.LAG_AT_MOST)))
    return node, backend


def _add_lag(node: pb.StatusNode, me: Myself, told: float | None) -> None:
    lag = me.lag if node.is_self else told
    node.lag_is_coarse = not node.is_self
    if lag is not None:
        node.lag = round(lag, 3)


def _kind(member: MemberView) -> str:
    role = member.keys.get(keys.ROLE, "")
    if role in _KINDS:
        return _KINDS[role]
    return next((kind for service, kind in _KINDS.items() if service in member.services), OTHER)


def _state(member: MemberView, me: Myself) -> str:
    if member.is_self:
        return "ready" if me.is_ready else "not_ready"
    if not member.is_live:
        return "leaving" if member.is_leaving else "dead"
    return "ready" if member.is_ready else "not_ready"


def _stranger(one: BackendFigures) -> _Joined:
    """Return a backend that is no member: it is named by the configuration, or gossip is off."""
    backend = one.backend
    node = pb.StatusNode(
        name=clean(backend.facts.node_id or backend.address),
        kind=backend.role.value,
        grpc_address=backend.address,
        zone=clean(backend.facts.zone),
    )
    return node, one


def _add_backend(node: pb.StatusNode, one: BackendFigures, unix: Callable[[float], float]) -> None:
    backend = one.backend
    if node.kind == OTHER:
        node.kind = backend.role.value
    node.state = backend.state.value
    node.since = unix(backend.since)
    # A primary in recovery takes reads that have no bound, but no writes.
    reason = "standby" if one.reason == ELIGIBLE and backend.is_standby else one.reason
    node.eligible = reason == ELIGIBLE
    node.reason = reason
    node.verdict = _verdict(one, reason)
    node.ejected = backend.is_ejected
    node.in_flight = one.load.in_flight
    if one.load.latency:
        node.latency = round(one.load.latency, 6)
    if node.kind == REPLICA:
        # What this node's own questions show is finer than what gossip tells.
        node.ClearField("lag")
        node.lag_is_coarse = False
        if one.lag is not None:
            node.lag = round(one.lag, 3)


def _verdict(one: BackendFigures, reason: str) -> str:
    if reason == ELIGIBLE:
        return "takes writes" if one.backend.role is BackendRole.PRIMARY else "takes reads"
    if one.backend.trouble and reason == one.backend.state.value:
        return clean(one.backend.trouble, MOST_TEXT)
    return REASONS[reason].verdict


def key_of(node: pb.StatusNode) -> str:
    """Return what a node's history and troubles are kept under."""
    return f"{node.kind}/{node.grpc_address or node.name}"
