"""What spoofed or broken datagrams may cost at most, what is counted, and what is worth a log line.

The limits are far above what a cluster needs: chitchat's own uncompressed digest cannot name more
than some 1,500 members. At the limits a node spends about 100 MB on gossip.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.gossip.identity import Endpoint


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a node remembers; the rest is dropped and counted.

    `members`: identities known at once, old generations included; beyond them the first that has
    never been live makes way for one that is new. `node_id`: bytes of a node id.
    `keys` and `member_bytes`: of one member. `total_bytes`: keys and values of all the members.
    A key counts `KEY_OVERHEAD` bytes besides its name and value. What a delta brings beyond them is
    left off at its end, which is like a delta that was cut short: the rest is asked for again.
    """

    members: int = 4_096
    node_id: int = 1_024
    keys: int = 32_768
    member_bytes: int = 8 << 20
    total_bytes: int = 64 << 20


KEY_OVERHEAD = 256


class Count(StrEnum):
    """What is counted, by the name it has in metrics."""

    RECEIVED = "received"
    SENT = "sent"
    # Datagrams dropped whole.
    MALFORMED = "malformed"
    WRONG_CLUSTER = "wrong_cluster"
    BAD_CLUSTER = "bad_cluster"
    # Parts of datagrams dropped.
    MEMBERS_DROPPED = "members_dropped"
    OWN_DELTAS = "own_deltas"
    UNKNOWN_DELTAS = "unknown_deltas"
    REJECTED_DELTAS = "rejected_deltas"
    KEYS_DROPPED = "keys_dropped"
    # Digests that named not everybody for want of room.
    DIGESTS_CUT = "digests_cut"
    # What happened to members.
    RESETS = "resets"
    MEMBERS_FORGOTTEN = "members_forgotten"


class EventKind(StrEnum):
    """What a person should hear of.

    BAD_CLUSTER: the peer refused us, its `cluster_id` is another. WRONG_CLUSTER: we refused the
    peer; `detail` is its `cluster_id`. OWN_ID: a peer sent a state for our own identity, so another
    process has it. DIGEST_CUT: too many members for one datagram. RESET: a member's state began
    anew (`detail` is its node id), so keys may be missing for a moment: a good time to call
    FetchClusterState.
    """

    BAD_CLUSTER = "bad_cluster"
    WRONG_CLUSTER = "wrong_cluster"
    OWN_ID = "own_id"
    DIGEST_CUT = "digest_cut"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Event:
    """Something to log; told once for each kind and peer, RESET each time."""

    kind: EventKind
    peer: Endpoint | None
    detail: str = ""
