"""Ids, digests and deltas of the gossip tests, and the messages of the vectors."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

from proxy.gossip.cluster import GossipCluster, GossipSettings
from proxy.gossip.identity import Endpoint, MemberId
from proxy.gossip.limits import Limits
from proxy.gossip.messages import (
    Ack,
    BadCluster,
    KeyRecord,
    Message,
    NodeDelta,
    Syn,
    SynAck,
)
from proxy.gossip.wire import Digest

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "facts" / "gossip_vectors.json").read_text()
)["vectors"]

NODE_1 = MemberId("node-10001", 0, ip_address("127.0.0.1"), 10_001)
NODE_2 = MemberId("node-10002", 0, ip_address("127.0.0.1"), 10_002)
SOMEBODY: Endpoint = ("192.0.2.7", 7280)


def member(name: str, generation: int = 1, host: int = 1) -> MemberId:
    """Return an identity at 10.0.0.`host`."""
    return MemberId(name, generation, ip_address(f"10.0.0.{host}"), 7280)


def gossiper(
    me: MemberId | None = None,
    *,
    now: float = 0.0,
    seed: int = 1,
    keys: dict[str, str] | None = None,
    limits: Limits | None = None,
    **settings: Any,
) -> GossipCluster:
    """Return a member of the default cluster."""
    made = GossipSettings(limits=limits or Limits(), **settings)
    return GossipCluster(me or member("me"), made, now=now, rng=Random(seed), keys=keys)


def digest_of(*entries: tuple[MemberId, int, int, int]) -> Digest:
    """Return a digest of (id, heartbeat, last_gc_version, max_version)."""
    return {each[0].raw: each[1:] for each in entries}


def message_of(vector: dict[str, Any]) -> Message:
    """Return what a vector says that its bytes mean."""
    version = vector["version"]
    digest = digest_of(
        *(
            (id_of(each["id"]), each["heartbeat"], each["last_gc_version"], each["max_version"])
            for each in vector.get("digest", ())
        )
    )
    delta = [
        NodeDelta(
            id_of(each["id"]).raw,
            each["last_gc_version"],
            each["from_version"],
            each["max_version"],
            [KeyRecord(*record) for record in each["records"]],
        )
        for each in vector.get("delta", ())
    ]
    match vector["message"]:
        case "syn":
            return Syn(version, digest, vector["cluster_id"])
        case "syn_ack":
            return SynAck(version, digest, delta)
        case "ack":
            return Ack(version, delta)
        case _:
            return BadCluster(version)


def id_of(fields: dict[str, Any]) -> MemberId:
    """Return a vector's identity."""
    host, _, port = fields["address"].rpartition(":")
    return MemberId(
        fields["node_id"], fields["generation"], ip_address(host.strip("[]")), int(port)
    )
