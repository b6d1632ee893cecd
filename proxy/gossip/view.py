"""What a node knows of its cluster at a moment: immutable, equal when nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxy.gossip.identity import MemberId
from proxy.gossip.keys import (
    AVAILABILITY_ZONE,
    ENABLED_SERVICES,
    GRPC_ADVERTISE_ADDR,
    READINESS,
    READY,
    services_of,
    socket_address_of,
)


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member.

    `is_ready`: live, `readiness` is READY, and both keys without which Quickwit does not see a
    member (`enabled_services`, `grpc_advertise_addr`) are there and parse. `services` are canonical
    Quickwit names. `is_leaving`: it has been dead for long, and nobody is told of it any more.
    `grpc_address` is `ip:port`, None when absent or no literal address. `keys` are
    those of the member itself; the many that name a shard or a pipeline (`...:...`) are left out.
    """

    node_id: str
    generation: int
    gossip_address: str
    is_self: bool
    is_live: bool
    is_ready: bool
    services: frozenset[str]
    grpc_address: str | None
    availability_zone: str | None
    keys: Mapping[str, str]
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The members, one for each node id, sorted by it, the node itself included.

    Of several generations the highest that is live stands for the node, or the highest if none is.
    `duplicates` are node ids of which two generations are alive at once: two processes use one
    `node_id`. It takes some 15 intervals to tell them from a restart.
    """

    cluster_id: str
    self_id: MemberId
    members: tuple[MemberView, ...]
    duplicates: tuple[str, ...] = ()

    @property
    def me(self) -> MemberView:
        """The node itself."""
        return next(member for member in self.members if member.is_self)

    def counts(self) -> dict[str, int]:
        """Return how many are `live`, `ready`, `dead` and, among the dead, `zombie`: leaving."""
        return {
            "live": sum(one.is_live for one in self.members),
            "ready": sum(one.is_ready for one in self.members),
            "dead": sum(not one.is_live for one in self.members),
            "zombie": sum(one.is_leaving and not one.is_live for one in self.members),
        }

    def get(self, node_id: str) -> MemberView | None:
        """Return the member with this node id."""
        return next((member for member in self.members if member.node_id == node_id), None)


def member_view(
    member_id: MemberId,
    keys: Mapping[str, str],
    *,
    is_self: bool,
    is_live: bool,
    is_leaving: bool = False,
) -> MemberView:
    """Read a member's keys."""
    services = keys.get(ENABLED_SERVICES)
    address = socket_address_of(keys.get(GRPC_ADVERTISE_ADDR, ""))
    return MemberView(
        node_id=member_id.node_id,
        generation=member_id.generation,
        gossip_address=member_id.address,
        is_self=is_self,
        is_live=is_live,
        is_ready=(
            is_live
            and keys.get(READINESS) == READY
            and services is not None
            and address is not None
        ),
        services=services_of(services or ""),
        grpc_address=address,
        availability_zone=keys.get(AVAILABILITY_ZONE),
        keys=MappingProxyType(dict(keys)),
        is_leaving=is_leaving,
    )
