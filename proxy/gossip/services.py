"""What a member is to this project: a primary's node, a replica's, a router, or one of Quickwit's.

Quickwit's nodes go by `enabled_services` alone, and take a router for what it advertises itself as.
Here `metastore_proxy.role` says what it is, so that calls are never passed from router to router.
"""

from __future__ import annotations

from proxy.gossip import keys
from proxy.gossip.view import MemberView
from proxy.roles import Role


def is_router(member: MemberView) -> bool:
    """Tell whether a member only passes calls on."""
    return member.keys.get(keys.ROLE) == Role.ROUTER.value


def is_primary(member: MemberView) -> bool:
    """Tell whether a member is there for writes, whatever its state."""
    return Role.METASTORE.value in member.services and not is_router(member)


def is_replica(member: MemberView) -> bool:
    """Tell whether a member is there for reads of a replica, whatever its state."""
    return Role.READ_REPLICA.value in member.services and not (
        is_router(member) or is_primary(member)
    )


def rest_address(member: MemberView) -> str | None:
    """Return the REST address `ip:port` that a member tells; None when absent or no address."""
    return keys.socket_address_of(member.keys.get(keys.REST_ADVERTISE_ADDR, ""))
