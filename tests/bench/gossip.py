"""What gossip costs a node of a cluster of 100: processor time and memory.

Run with `python -m tests.bench.gossip`. A hundred nodes gossip in memory, without loss, at an
interval of one second; each writes a key every ten seconds. One of them is timed: its ticks, all
it receives and the view after each; sending and receiving on a socket is not in it. Memory is that
of a node after 1,000 s, when the failure detector's windows are full. `--check` exits with 1 above
2% of a core or 20 MB.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from random import Random

import psutil

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.cluster import GossipCluster, GossipSettings, KeyRecord, MemberRecord, Outgoing
from proxy.gossip.identity import Endpoint, MemberId
from proxy.gossip.messages import Syn, encode

MEMBERS = 100
WARM_UP, ROUNDS = 30, 60
CPU_LIMIT, MEMORY_LIMIT = 0.02, 20 << 20
# Seconds of the detector's window, which is what grows while a node runs.
WINDOW = 1_000
PEER: Endpoint = ("10.0.0.2", 7280)


def member(number: int) -> MemberId:
    """Return the identity of a node, its name as long as a pod's."""
    name = f"quickwit-searcher-{number:03}.quickwit-headless"
    return MemberId(name, 1_787_000_000_000_000_000, IPv4Address(0x0A000001 + number), 7280)


def keys(number: int) -> dict[str, str]:
    """Return what a node of ours publishes."""
    return {
        "enabled_services": "metastore_read_replica",
        "grpc_advertise_addr": f"10.0.0.{number + 1}:7281",
        "readiness": "READY",
        "availability_zone": "eu-west-1a",
        "standalone_compactors": "false",
        "metastore_proxy.role": "metastore_read_replica",
        "metastore_proxy.version": "0.1.0",
        "metastore_proxy.rest_advertise_addr": f"10.0.0.{number + 1}:7280",
        "metastore_proxy.lag_at_most": "1",
    }


class Network:
    """A hundred nodes and the datagrams between them; the first node is timed."""

    def __init__(self, version: int) -> None:
        self.rng = Random(1)
        self.now = 0.0
        self.seconds = 0.0
        self.datagrams = 0
        self.bytes = 0
        settings = GossipSettings(protocol_version=version)
        codec = BlockCodec()
        self.nodes: dict[Endpoint, GossipCluster] = {}
        for number in range(MEMBERS):
            me = member(number)
            self.nodes[me.endpoint] = GossipCluster(
                me, settings, now=0.0, rng=Random(number), keys=keys(number), codec=codec
            )
        self.timed = member(0).endpoint

    def work(self, who: Endpoint, action: Callable[[], list[Outgoing]]) -> list[Outgoing]:
        """Let a node do something, on the clock if it is the timed one."""
        if who != self.timed:
            return action()
        began = time.perf_counter()
        sent = action()
        self.nodes[who].view()
        self.seconds += time.perf_counter() - began
        self.datagrams += len(sent)
        self.bytes += sum(len(each.data) for each in sent)
        return sent

    def round(self) -> None:
        """Let a second pass."""
        for number, (me, node) in enumerate(self.nodes.items()):
            if (number + int(self.now)) % 10 == 0:
                node.set("metastore_proxy.lag_at_most", self.rng.choice("125"))
            under_way = deque(
                (me, sent) for sent in self.work(me, partial(node.tick, self.now, [self.timed]))
            )
            while under_way:
                source, (to, data) = under_way.popleft()
                answers = self.work(to, partial(self.nodes[to].receive, self.now, data, source))
                under_way.extend((to, sent) for sent in answers)
            self.now += 1.0 / MEMBERS


def share_of_a_core(version: int, report: Callable[[str], object]) -> float:
    """Return the part of a core that one node of a hundred takes."""
    network = Network(version)
    for _ in range(WARM_UP):
        network.round()
    for node in network.nodes.values():
        assert sum(each.is_ready for each in node.view().members) == MEMBERS
    network.seconds, network.datagrams, network.bytes = 0.0, 0, 0
    for _ in range(ROUNDS):
        network.round()
    share = network.seconds / ROUNDS
    report(
        f"version {version}: {share:.2%} of a core; sends {network.datagrams / ROUNDS:.1f}"
        f" datagrams, {network.bytes / ROUNDS / 1000:.1f} kB a second"
    )
    return share


def memory(report: Callable[[str], object]) -> int:
    """Return by how much the process grows with one node that knows a hundred for a long time."""
    process = psutil.Process()
    codec = BlockCodec()
    others = [member(number) for number in range(1, MEMBERS)]
    records = [
        MemberRecord(each, tuple(record_of(number)), 9, 0) for number, each in enumerate(others)
    ]
    gc.collect()
    before = process.memory_info().rss
    node = GossipCluster(member(0), GossipSettings(), now=0.0, rng=Random(1), keys=keys(0))
    node.merge(0.0, records)
    for second in range(WINDOW + 1):
        for version in (0, 1):
            heartbeat = second * 2 + version + 1
            digest = {each.raw: (heartbeat, 0, 9) for each in others}
            syn = encode(Syn(version, digest, node.settings.cluster_id), codec)
            node.receive(second + version / 2, syn, PEER)
        node.tick(float(second), [PEER])
        node.view()
    grown = process.memory_info().rss - before
    assert sum(each.is_live for each in node.view().members) == MEMBERS
    report(f"memory: {grown / 2**20:.1f} MB")
    return grown


def record_of(number: int) -> list[KeyRecord]:
    """Return a node's keys as FetchClusterState has them."""
    pairs = enumerate(keys(number).items(), 1)
    return [KeyRecord(key, value, version, 0) for version, (key, value) in pairs]


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="exit with 1 over the limits")
    arguments = parser.parse_args()

    def report(line: str) -> None:
        sys.stdout.write(f"{line}\n")

    is_small = memory(report) < MEMORY_LIMIT
    is_fast = all(share_of_a_core(version, report) < CPU_LIMIT for version in (0, 1))
    return 0 if (is_small and is_fast) or not arguments.check else 1


if __name__ == "__main__":
    raise SystemExit(main())
