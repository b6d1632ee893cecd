"""What it costs a node to be one of 100 members, its socket and its thread included.

Run with `python -m tests.bench.gossip_agent`. The agent runs in a process of its own, at Quickwit's
interval of one second; this process plays the other 99 over real sockets of the loopback interface.
Prints the agent's processor time as a part of one core, and its memory over that of its process
before gossip was imported. `--check` exits with 1 above 2% or 20 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import selectors
import socket
import subprocess
import sys
import time
from ipaddress import ip_address
from random import Random
from typing import Any, cast

import psutil

CPU_LIMIT = 2.0
MEMORY_LIMIT = 20.0
INTERVAL = 1.0
HOST = "127.0.0.1"


def rss() -> float:
    """Return this process's resident memory in megabytes."""
    return psutil.Process().memory_info().rss / 1e6


def cpu() -> float:
    """Return the processor seconds that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def node(seed: str, members: int, seconds: float) -> dict[str, Any]:
    """Be the agent that is measured; wait until all are alive, then measure."""
    before = rss()
    from proxy.gossip.agent import AgentSettings, GossipAgent
    from proxy.gossip.cluster import GossipSettings

    imported = rss()
    settings = AgentSettings(
        node_id="measured",
        generation=time.time_ns(),
        listen=ip_address(HOST),
        port=0,
        advertise=ip_address(HOST),
        gossip=GossipSettings(interval=INTERVAL),
        seeds=(seed,),
    )
    agent = GossipAgent(settings, keys_of(1))
    started = cpu()
    await agent.open()
    deadline = time.monotonic() + 60
    while sum(one.is_live for one in agent.view.members) < members:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(agent.view.members)} members known")
        await asyncio.sleep(0.1)
    joined = cpu() - started
    used, began, counted = cpu(), time.monotonic(), agent.counters["received"]
    await asyncio.sleep(seconds)
    used = (cpu() - used) / (time.monotonic() - began)
    result = {
        "cpu_percent": round(100 * used, 2),
        "joining_cpu_seconds": round(joined, 3),
        "memory_mb": round(rss() - before, 1),
        "of_that_imports_mb": round(imported - before, 1),
        "datagrams_per_second": round((agent.counters["received"] - counted) / seconds, 1),
        "live": sum(one.is_live for one in agent.view.members),
    }
    await agent.close()
    return result


def keys_of(count: int, shards: int = 0) -> dict[str, str]:
    """Return the keys of a node of ours, and those of an indexer with so many shards."""
    host = f"10.0.{count // 250}.{count % 250}"
    return {
        "enabled_services": "metastore_read_replica",
        "grpc_advertise_addr": f"{host}:7281",
        "readiness": "READY",
        "availability_zone": "eu-central-1a",
        "standalone_compactors": "false",
        "metastore_proxy.role": "metastore_read_replica",
        "metastore_proxy.version": "0.1.0",
        "metastore_proxy.rest_advertise_addr": f"{host}:7280",
        **{
            f"ingester.primary_shards:index-{number}:01J000000000000000000000:src": "[" + "0" * 60
            for number in range(shards)
        },
    }


class Others:
    """The other members, in this process."""

    def __init__(self, count: int, shards: int) -> None:
        from proxy.gossip.cluster import GossipCluster, GossipSettings
        from proxy.gossip.identity import MemberId

        self._selector = selectors.DefaultSelector()
        self._members: list[tuple[socket.socket, GossipCluster]] = []
        now = time.monotonic()
        for number in range(count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((HOST, 0))
            sock.setblocking(False)
            name = f"metastore-read-replica-{number}"
            me = MemberId(name, time.time_ns(), ip_address(HOST), sock.getsockname()[1])
            settings = GossipSettings(interval=INTERVAL)
            keys = keys_of(number, shards)
            member = GossipCluster(me, settings, now=now, rng=Random(number), keys=keys)
            self._members.append((sock, member))
            self._selector.register(sock, selectors.EVENT_READ, member)
        self.seed = (HOST, int(self._members[0][0].getsockname()[1]))

    def gossip_until_end_of(self, process: subprocess.Popen[bytes]) -> None:
        """Gossip for as long as a process runs."""
        count = len(self._members)
        due = [time.monotonic() + number * INTERVAL / count for number in range(count)]
        while process.poll() is None:
            for number, (sock, member) in enumerate(self._members):
                now = time.monotonic()
                if now >= due[number]:
                    due[number] = max(now, due[number] + INTERVAL)
                    for to, data in member.tick(now, {self.seed}):
                        sock.sendto(data, to)
            for key, _ in self._selector.select(max(0.0, min(due) - time.monotonic())):
                self._answer(cast("socket.socket", key.fileobj), key.data)

    @staticmethod
    def _answer(sock: socket.socket, member: Any) -> None:
        while True:
            try:
                data, source = sock.recvfrom(65_507)
            except BlockingIOError:
                return
            for to, answer in member.receive(time.monotonic(), data, source):
                sock.sendto(answer, to)

    def close(self) -> None:
        """Close the sockets."""
        self._selector.close()
        for sock, _ in self._members:
            sock.close()


def measure(members: int, seconds: float, shards: int) -> dict[str, Any]:
    """Measure an agent among so many members, each of which has keys of so many shards."""
    others = Others(members - 1, shards)
    seed = f"{others.seed[0]}:{others.seed[1]}"
    command = [sys.executable, "-m", "tests.bench.gossip_agent", "--node", seed]
    command += ["--members", str(members), "--seconds", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        others.gossip_until_end_of(process)
    finally:
        process.kill()
        others.close()
    found: dict[str, Any] = json.loads(process.communicate()[0])
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--shards", type=int, default=0, help="keys of shards that each member has")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--node", metavar="SEED", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        found = asyncio.run(node(options.node, options.members, options.seconds))
        sys.stdout.write(json.dumps(found))
        return 0
    found = measure(options.members, options.seconds, options.shards)
    for name, value in found.items():
        sys.stdout.write(f"{name:<22} {value}\n")
    is_fine = found["cpu_percent"] < CPU_LIMIT and found["memory_mb"] < MEMORY_LIMIT
    return 0 if is_fine or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
