"""What is wrong with how nodes are set up together, found by looking at each other.

Two sources: the heartbeat's row, which every node on a database sees and which says who stamps it,
and gossip. Pure: `now` is seconds on a monotonic clock. States of each alarm::

    quiet  -> raised   the evidence has lasted: a restart or a late start is no evidence
    raised -> quiet    the evidence has been gone for a while
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.gossip.view import ClusterView
from proxy.store.lag import Heartbeat, Writer

# A stamp that is older says nothing of now: a standby may replay those of earlier runs.
OLDEST: Final = 30.0
# A node whose stamp stands still for so long has gone.
GONE: Final = 10.0
# So many new stamps of one node prove that it runs: one may have been on its way when it ended.
PROOF: Final = 2
# What another cluster's member said counts for so long.
MEMORY: Final = 60.0


@dataclass(slots=True)
class _Stamper:
    """Who stamps, since when and until when."""

    writer: Writer
    at: float
    first: float
    last: float
    stamps: int = 0

    def runs(self, now: float) -> bool:
        return self.stamps >= PROOF and now - self.last < GONE


class ClusterAlarms:
    """Collects evidence; `current` says what follows from it.

    `patience` is how long a node that others know of may take to be seen by gossip; `has_seeds`
    whether `peer_seeds` is set.
    """

    def __init__(self, me: Writer, *, has_seeds: bool, patience: float) -> None:
        self._me = me
        self._has_seeds = has_seeds
        self._patience = patience
        self._stamper: _Stamper | None = None
        self._view: ClusterView | None = None
        self._refused: dict[str, float] = {}
        self._refusals = 0

    def stamped(self, heartbeat: Heartbeat, age: float, now: float) -> None:
        """Take note of the row as it is; `age` is by the database's own clock."""
        writer = heartbeat.writer
        if writer is None or age > OLDEST:
            return
        if writer.generation == self._me.generation:
            self._stamper = None
            return
        known = self._stamper
        if known is None or known.writer != writer:
            self._stamper = _Stamper(writer, heartbeat.at, first=now, last=now)
        elif heartbeat.at > known.at:
            known.at, known.last = heartbeat.at, now
            known.stamps += 1

    def viewed(self, view: ClusterView) -> None:
        """Take note of what gossip knows."""
        self._view = view

    def refused(self, peer: str, now: float) -> None:
        """Take note of a peer that said it is of another cluster."""
        self._refused[peer] = now

    def refusals(self, total: int, now: float) -> None:
        """Take note of how often peers said so since the start: only the first time names them."""
        if total > self._refusals:
            self._refusals = total
            self._refused = dict.fromkeys(self._refused, now)

    def current(self, now: float) -> tuple[str, ...]:
        """Return what is wrong now, each a sentence that says what to do."""
        found = [*self._of_gossip(now)]
        stamper = self._stamper
        if stamper is not None and stamper.runs(now):
            found += self._of_stamper(stamper, now)
        return tuple(dict.fromkeys(found))

    def _of_gossip(self, now: float) -> list[str]:
        found = []
        if self._view is not None:
            found += [_same_node_id(node_id) for node_id in self._view.duplicates]
        for peer, when in self._refused.items():
            if now - when < MEMORY:
                found.append(
                    f"the node at {peer} is of another cluster than `{self._me.cluster_id}`: give "
                    "both the same `cluster_id`, or take it out of `peer_seeds`"
                )
        return found

    def _of_stamper(self, stamper: _Stamper, now: float) -> list[str]:
        other, me = stamper.writer, self._me
        if other.node_id == me.node_id:
            return [_same_node_id(me.node_id)]
        if other.cluster_id != me.cluster_id:
            return [_other_cluster(other, me)]
        is_alone = not self._has_seeds and me.gossip_address and other.gossip_address
        if is_alone and not self._sees(other) and now - stamper.first > self._patience:
            return [_no_seeds(other)]
        return []

    def _sees(self, other: Writer) -> bool:
        member = None if self._view is None else self._view.get(other.node_id)
        return member is not None and member.is_live


def _other_cluster(other: Writer, me: Writer) -> str:
    return (
        f"node `{other.node_id}` works on the same database, and its `cluster_id` is "
        f"`{other.cluster_id}`, that of this node `{me.cluster_id}`: give all nodes of a database "
        "the same `cluster_id` (or QW_CLUSTER_ID)"
    )


def _no_seeds(other: Writer) -> str:
    return (
        f"node `{other.node_id}` works on the same database, and neither knows of the other, "
        "because `peer_seeds` is not set: set it (or QW_PEER_SEEDS) to "
        f"[{other.gossip_address}], or `proxy.gossip: false` where nodes are to be apart"
    )


def _same_node_id(node_id: str) -> str:
    return (
        f"two nodes have the `node_id` `{node_id}`, and take each other's place in the cluster: "
        "give each its own `node_id` (or QW_NODE_ID)"
    )
