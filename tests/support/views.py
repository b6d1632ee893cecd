"""Members of a cluster as gossip shows them, without gossip."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from proxy.gossip import keys
from proxy.gossip.identity import MemberId
from proxy.gossip.view import ClusterView, MemberView, member_view

CLUSTER = "test-cluster"


def ours(
    node_id: str,
    role: str,
    *,
    host: str = "10.0.0.1",
    generation: int = 1,
    is_live: bool = True,
    is_self: bool = False,
    **values: str | None,
) -> MemberView:
    """Return a node of this project; `values` replace its keys by short name, None takes one out.

    The names are those of the constants in `proxy.gossip.keys`, in lower case.
    """
    told: dict[str, str | None] = {
        "enabled_services": "metastore_read_replica" if role == "metastore_router" else role,
        "grpc_advertise_addr": f"{host}:7281",
        "rest_advertise_addr": f"{host}:7280",
        "readiness": "READY",
        "role": role,
        "version": "0.1.0",
        **values,
    }
    return _member(node_id, told, host, generation, is_live=is_live, is_self=is_self)


def quickwit(
    node_id: str,
    services: str,
    *,
    host: str = "10.0.0.9",
    generation: int = 1,
    is_live: bool = True,
    **values: str | None,
) -> MemberView:
    """Return one of Quickwit's nodes."""
    told: dict[str, str | None] = {
        "enabled_services": services,
        "grpc_advertise_addr": f"{host}:7281",
        "readiness": "READY",
        **values,
    }
    return _member(node_id, told, host, generation, is_live=is_live, is_self=False)


def _member(
    node_id: str,
    told: dict[str, str | None],
    host: str,
    generation: int,
    *,
    is_live: bool,
    is_self: bool,
) -> MemberView:
    known = {
        getattr(keys, name.upper()): value for name, value in told.items() if value is not None
    }
    identity = MemberId(node_id, generation, ip_address(host), 7280)
    return member_view(identity, known, is_self=is_self, is_live=is_live)


def cluster(*members: MemberView, duplicates: tuple[str, ...] = ()) -> ClusterView:
    """Return a view; the observer is the member that `is_self`, else one that is no member."""
    me = next((one for one in members if one.is_self), None)
    identity = MemberId("me" if me is None else me.node_id, 1, ip_address("10.9.9.9"), 7280)
    ordered = tuple(sorted(members, key=lambda one: one.node_id))
    return ClusterView(CLUSTER, identity, ordered, duplicates)


class ScriptedCluster:
    """A cluster that shows whatever a test says, as a node's membership does."""

    def __init__(self, *members: MemberView) -> None:
        self.view = cluster(*members)
        self.listeners: list[Callable[[ClusterView], None]] = []

    def on_view(self, listener: Callable[[ClusterView], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        listener(self.view)
        return lambda: self.listeners.remove(listener)

    def show(self, *members: MemberView) -> None:
        """Change the view to these members."""
        self.view = cluster(*members)
        for listener in tuple(self.listeners):
            listener(self.view)
