"""Phrases that what is wrong and where calls go have in common. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb
from proxy.roles import Role
from proxy.server.status.nodes import PRIMARY, REPLICA

FAIL: Final = "reads fail"
# So many are named, the others counted.
_MOST_NAMED: Final = 3


def of_kind(status: pb.GetStatusResponse, kind: str) -> Sequence[pb.StatusNode]:
    """Return the nodes of a kind."""
    return [node for node in status.nodes if node.kind == kind]


def backends(status: pb.GetStatusResponse, kind: str = "") -> Sequence[pb.StatusNode]:
    """Return the nodes that this one may send calls to."""
    return [
        node
        for node in status.nodes
        if node.HasField("eligible") and node.kind in {kind or node.kind}
    ]


def joined(names: Sequence[str]) -> str:
    """Return names as part of a sentence.

    >>> joined(["a", "b", "c"]), joined(["a", "b", "c", "d", "e"])
    ('a, b and c', 'a, b, c and 2 others')
    """
    if len(names) == _MOST_NAMED + 1:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def seconds(value: float) -> str:
    """Return a duration, as precise as it is short.

    >>> seconds(0.214), seconds(14.2), seconds(125), seconds(7300)
    ('0.21 s', '14 s', '2 min 5 s', '2 h 1 min')
    """
    if value < 10:
        return f"{value:.{2 if value < 1 else 1}f}".rstrip("0").rstrip(".") + " s"
    if value < 120:
        return f"{value:.0f} s"
    for size, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if value >= size:
            whole, rest = divmod(int(value), size)
            return f"{whole} {name} {rest // part} {part_name}"
    return f"{int(value) // 60} min {int(value) % 60} s"


def takes_writes(status: pb.GetStatusResponse) -> bool:
    """Tell whether a primary serves."""
    return any(node.eligible for node in backends(status, PRIMARY))


def _can_fall_back(status: pb.GetStatusResponse) -> bool:
    now = status.protection
    if now.HasField("fallback_limit") and now.fallback_limit == 0:
        return False
    # A primary in recovery takes reads that have no bound.
    return any(
        node.eligible or (node.reason == "standby" and not status.HasField("max_lag"))
        for node in backends(status, PRIMARY)
    )


def serves_itself(status: pb.GetStatusResponse) -> bool:
    """Tell whether the node answers reads from a database of its own."""
    is_broken = any(one.reason for one in status.conditions)
    return status.role != Role.ROUTER.value and status.ready and not is_broken


def reads_go(status: pb.GetStatusResponse) -> str:
    """Return where reads go that ask for nothing but the bound."""
    if serves_itself(status):
        return "reads are served here"
    takers = [node.name for node in backends(status, REPLICA) if node.eligible]
    if takers:
        return f"reads go to {joined(takers)}"
    if _can_fall_back(status):
        return "all reads go to the primary (fallback)"
    old = [node.name for node in backends(status, REPLICA) if _may_be_stale(node)]
    if old and status.protection.serve_stale:
        return f"reads get older answers (stale) from {joined(old)}"
    return FAIL


def _may_be_stale(node: pb.StatusNode) -> bool:
    return node.state == "serving" and node.reason in {"too_old", "unknown_lag", "filling"}
