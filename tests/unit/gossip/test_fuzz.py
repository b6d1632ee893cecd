"""A million datagrams that nobody should send: no exception, no hang, no growth."""

from __future__ import annotations

import tracemalloc

import psutil
import pytest

from proxy.gossip.blocks import BlockCodec
from proxy.gossip.identity import DecodeError
from proxy.gossip.limits import Count, Limits
from proxy.gossip.messages import Ack, KeyRecord, NodeDelta, Syn, decode, encode
from tests.unit.gossip.making import digest_of, gossiper, member
from tests.unit.gossip.mutations import ME, NAME, mutated

CODEC = BlockCodec()
CHUNKS = 10
TO_CODEC, TO_NODE = 75_000, 25_000
SMALL = Limits(members=25, keys=20, member_bytes=8_000, total_bytes=100_000)


@pytest.mark.parametrize("seed", range(CHUNKS))
def test_the_codec_survives(seed: int) -> None:
    fine = 0
    for data in mutated(TO_CODEC, seed):
        try:
            decode(data, CODEC)
            fine += 1
        except DecodeError:
            pass
    # Neither are they so harmless that all are messages, nor so broken that none is.
    assert TO_CODEC // 10 < fine < TO_CODEC * 9 // 10


@pytest.mark.parametrize("seed", range(CHUNKS))
def test_a_node_survives_and_stays_small(seed: int) -> None:
    node = gossiper(ME, keys={"a": "1"}, limits=SMALL, member_grace=20.0, key_grace=5.0, seed=seed)
    process, sizes = psutil.Process(), []
    now, answers = 0.0, 0
    for number, data in enumerate(mutated(TO_NODE, 1_000 + seed)):
        source = (f"192.0.2.{number & 255}", number)
        answers += len(node.receive(now, data, source))
        if number % 200 == 0:
            now += 1.0
            assert all(len(sent.data) <= 65_507 for sent in node.tick(now, [source]))
            node.view()
        if number % 5_000 == 4_999:
            sizes.append(process.memory_info().rss)
    counters = node.counters
    assert counters[Count.RECEIVED] == TO_NODE
    assert 0 < counters[Count.MALFORMED] < TO_NODE
    for each in (Count.OWN_DELTAS, Count.MEMBERS_DROPPED, Count.RESETS, Count.WRONG_CLUSTER):
        assert counters[each] > 0, each
    assert answers > 1_000
    states = node.snapshot()
    assert len(node.view().members) <= SMALL.members
    assert all(len(each.records) <= SMALL.keys for each in states)
    assert dict(node.view().me.keys) == {"a": "1"}
    assert len(node.events()) <= 1_000
    assert sizes[-1] - sizes[0] < 16 << 20


def flood(number: int) -> list[bytes]:
    """Return datagrams that name 250 members nobody has heard of, and give each some keys."""
    ids = [member(f"spoofed-{number}-{n}", generation=n) for n in range(250)]
    syn = Syn(0, digest_of(*((each, 1, 0, 0) for each in ids)), NAME)
    records = [KeyRecord(f"key-{n}", "value" * 20, n + 1, 0) for n in range(20)]
    acks = [
        Ack(0, [NodeDelta(each.raw, 0, 0, 20, records) for each in ids[start : start + 25]])
        for start in range(0, 250, 25)
    ]
    return [encode(syn, CODEC), *(encode(each, CODEC) for each in acks)]


def test_a_flood_of_members_and_keys_stops_at_the_limits() -> None:
    """What is counted for a key is what it costs, so that the limits bound memory."""
    limits = Limits(members=500, total_bytes=2 << 20)
    node = gossiper(ME, limits=limits)
    tracemalloc.start()
    try:
        used = []
        for number in range(6):
            for data in flood(number):
                node.receive(0.0, data, (f"192.0.2.{number}", 1))
            node.tick(0.0)
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(node.view().members) == limits.members
    assert node.counters[Count.MEMBERS_DROPPED] == 6 * 250 - 499
    assert node.counters[Count.KEYS_DROPPED] > 0
    # 2 MB of keys, and some 2 kB for each member.
    assert used[-1] < 4_500_000
    # And some 400 bytes for each of those that made way, as long as they are remembered.
    assert used[-1] - used[2] < 400_000
