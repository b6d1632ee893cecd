"""The gossip agent over real sockets: it finds, tells, notices, and never stops."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from proxy import errors
from proxy.gossip.agent import GossipAgent
from proxy.gossip.cluster import Outgoing
from proxy.gossip.identity import Endpoint
from proxy.gossip.view import ClusterView
from tests.support.gossip import agent, alive, gossiping, told
from tests.support.waiting import until

Receive = Callable[[float, bytes, Endpoint], list[Outgoing]]

TWO = {"a", "b"}
THREE = {"a", "b", "c"}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "gossip"]


async def test_three_find_each_other_by_one_seed_and_agree_on_keys() -> None:
    async with (
        gossiping("a", keys={"k": "of a"}) as a,
        gossiping("b", a, keys={"k": "of b"}) as b,
        gossiping("c", a, keys={"k": "of c", "empty": ""}) as c,
    ):
        await until(lambda: alive(a.view) == alive(b.view) == alive(c.view) == THREE)
        for one in (a, b, c):
            assert [told(one.view, name).keys["k"] for name in "abc"] == ["of a", "of b", "of c"]
            assert told(one.view, "c").keys["empty"] == ""
            assert told(one.view, "b").gossip_address == f"127.0.0.1:{b.port}"
        assert [one.view.me.node_id for one in (a, b, c)] == ["a", "b", "c"]


async def test_a_change_of_keys_is_heard_on_the_loop_at_once() -> None:
    heard: list[tuple[str, str | None]] = []
    loop_thread = threading.get_ident()

    def hear(view: ClusterView) -> None:
        assert threading.get_ident() == loop_thread
        member = view.get("b")
        if member is not None:
            heard.append(("b", member.keys.get("readiness")))

    slow = 6.0
    async with (
        gossiping("a", interval=slow, on_view=hear) as a,
        gossiping("b", a, interval=slow, keys={"readiness": "NOT_READY"}) as b,
    ):
        # Far sooner than the next tick of either: a seed that is found is asked at once.
        await until(lambda: ("b", "NOT_READY") in heard, timeout=slow / 3)
        b.set_keys({"readiness": "READY"})
        await until(lambda: ("b", "READY") in heard, timeout=slow / 3)
        count = len(heard)
        b.set_keys({"readiness": "READY"})
        await until(lambda: b.counters["sent"] > 0)
        assert len(heard) == count


async def test_a_node_that_hardly_ever_asks_answers() -> None:
    rare = 4_294_967.295  # the largest `gossip_interval_ms`
    async with gossiping("a", interval=rare) as a, gossiping("b", a, interval=0.05) as b:
        await until(lambda: alive(b.view) == TWO)
        assert a.counters["received"] > 0
        assert "loop_errors" not in a.counters


async def test_a_silent_member_is_dead_and_one_that_starts_again_replaces_it() -> None:
    async with gossiping("a", interval=0.01) as a:
        b = agent("b", a, interval=0.01)
        await b.open()
        await until(lambda: alive(a.view) == TWO and a.counters["received"] > 300)
        first = told(a.view, "b").generation
        await b.close()
        await until(lambda: alive(a.view) == {"a"})
        assert told(a.view, "b").is_ready is False
        async with gossiping("b", a, port=b.port):
            await until(lambda: alive(a.view) == TWO)
            assert told(a.view, "b").generation > first
            assert a.view.duplicates == ()


def stall(agents: list[GossipAgent], datagrams: int) -> None:
    """Hold the event loop up until all agents have sent so many more datagrams."""
    due = [one.counters["sent"] + datagrams for one in agents]
    deadline = time.monotonic() + 20
    while any(one.counters["sent"] < count for one, count in zip(agents, due, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_gossip_goes_on_while_the_event_loop_stalls() -> None:
    async with gossiping("a") as a, gossiping("b", a) as b:
        await until(lambda: alive(a.view) == alive(b.view) == TWO)
        stall([a, b], 10)


async def test_a_node_of_another_cluster_is_refused_and_both_are_told() -> None:
    met: dict[str, list[str]] = {"a": [], "b": []}
    async with (
        gossiping("a", on_event=lambda event: met["a"].append(event.kind)) as a,
        gossiping(
            "b", a, cluster_id="cluster-b", on_event=lambda event: met["b"].append(event.kind)
        ) as b,
    ):
        await until(lambda: met == {"a": ["wrong_cluster"], "b": ["bad_cluster"]})
        await until(lambda: b.counters["bad_cluster"] > 3 and a.counters["wrong_cluster"] > 3)
        assert alive(a.view) == {"a"}
        assert alive(b.view) == {"b"}
    # Told once, however often it happens.
    assert met == {"a": ["wrong_cluster"], "b": ["bad_cluster"]}


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this host has no IPv6")
async def test_both_families_meet_on_one_socket() -> None:
    async with (
        gossiping("a", listen="::", advertise="127.0.0.1") as a,
        gossiping("b", f"127.0.0.1:{a.port}") as b,
        gossiping("c", f"[::1]:{a.port}", listen="::1") as c,
    ):
        await until(lambda: alive(a.view) == THREE)
        assert told(a.view, "c").gossip_address == f"[::1]:{c.port}"
        # These two cannot reach each other, and hear of each other by the third.
        await until(lambda: alive(b.view) == alive(c.view) == THREE)
        assert b.counters["send_errors"] > 0


async def test_seeds_that_a_node_cannot_reach_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async with gossiping("a", "[2001:db8::1]:7280"):
        pass
    (record,) = [one for one in caplog.records if "all seeds known so far" in one.message]
    assert vars(record)["seeds"] == ["[2001:db8::1]:7280"]


async def test_a_port_that_is_taken_is_an_error_that_names_the_key() -> None:
    async with gossiping("a") as a:
        second = agent("b", port=a.port)
        with pytest.raises(errors.Io) as caught:
            await second.open()
        assert f"cannot listen on 127.0.0.1:{a.port} (UDP) for gossip" in str(caught.value)
        assert "`gossip_listen_port`" in str(caught.value)
        await second.close()
        assert threads() == ["gossip"]
    assert threads() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": {"availability_zone": "z" * 5_000}}, "'availability_zone' has 5017 bytes"),
        ({"advertise": "fe80::1%lo"}, "gossip address has a zone"),
    ],
)
async def test_what_cannot_be_told_is_an_error(options: dict[str, Any], message: str) -> None:
    one = agent("a", **options)
    with pytest.raises(errors.Io, match=message):
        await one.open()
    await one.close()
    assert threads() == []


async def test_a_name_among_the_seeds_is_looked_up() -> None:
    async with gossiping("a") as a, gossiping("b", f"localhost:{a.port}") as b:
        await until(lambda: alive(a.view) == alive(b.view) == TWO)


async def test_an_error_that_nobody_expected_does_not_end_gossip(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with gossiping("a") as a, gossiping("b", a) as b:
        await until(lambda: alive(a.view) == TWO)
        failing = 3

        def fail(*_arguments: object) -> list[object]:
            nonlocal failing
            failing -= 1
            if not failing:
                monkeypatch.undo()
            raise RuntimeError("nobody expected this")

        monkeypatch.setattr(b._cluster, "tick", fail)
        monkeypatch.setattr(b._cluster, "receive", fail)
        await until(lambda: b.counters.get("loop_errors", 0) >= 3)
        sent = b.counters["sent"]
        await until(lambda: b.counters["sent"] > sent + 3)
        # At this interval the pauses after the errors may have been too long a silence.
        await until(lambda: alive(a.view) == TWO)
    (line, *_) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert line.getMessage() == "gossip goes on after an error"
    assert line.exc_info is not None


async def test_an_unreachable_peer_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # No route leads there from the loopback interface.
    async with gossiping("a", "255.255.255.255:9") as a:
        await until(lambda: a.counters.get("send_errors", 0) > 3)
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert lines == ["gossip cannot be sent to a peer"]


async def test_the_whole_state_is_told_until_the_end() -> None:
    async with gossiping("a", keys={"k": "1"}) as a, gossiping("b", a, keys={"k": "2"}) as b:
        await until(lambda: alive(b.view) == TWO and "k" in told(b.view, "a").keys)
        records = {one.member_id.node_id: one for one in await b.snapshot()}
        assert {name: one.records[0].value for name, one in records.items()} == {"a": "1", "b": "2"}
    with pytest.raises(errors.Unavailable, match="has left its cluster"):
        await b.snapshot()
    await b.close()


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Return a datagram with bytes changed, cut off, repeated or made up."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        spot = rng.randrange(len(data) or 1)
        match rng.randrange(5):
            case 0:
                data[spot : spot + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[spot:]
            case 2:
                data[spot:spot] = data[spot : spot + rng.randrange(64)]
            case 3:
                data[spot : spot + 8] = rng.randbytes(8)
            case _:
                data = bytearray(rng.randbytes(rng.randrange(200)))
    return bytes(data)


def tapped(receive: Receive, heard: list[bytes]) -> Receive:
    def tap(now: float, data: bytes, source: Endpoint) -> list[Outgoing]:
        heard.append(data)
        return receive(now, data, source)

    return tap


async def recorded(target: GossipAgent, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return real datagrams of each kind."""
    heard: list[bytes] = []
    async with gossiping("peer", target) as peer:
        for one in (peer, target):
            monkeypatch.setattr(one._cluster, "receive", tapped(one._cluster.receive, heard))
        await until(lambda: {data[3] for data in heard} >= {0, 1, 2} and len(heard) > 50)
        monkeypatch.undo()
    return heard


async def test_mutated_datagrams_at_a_running_agent_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(5)
    async with gossiping("target", interval=0.2) as target:
        seeds = await recorded(target, monkeypatch)
        start = target.counters["received"]
        process = psutil.Process()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hostile:
            hostile.bind(("127.0.0.1", 0))
            hostile.connect(("127.0.0.1", target.port))
            for number in range(20_000):
                hostile.send(mutated(rng.choice(seeds), rng))
                if number % 200 == 199:
                    # No more than the socket's buffer holds for certain.
                    await until(lambda due=start + number + 1: target.counters["received"] >= due)
                if number == 5_000:
                    half = process.memory_info().rss
        grown = process.memory_info().rss - half
        counters = target.counters
        assert counters["received"] >= start + 20_000
        assert counters["malformed"] > 5_000
        assert counters.get("loop_errors", 0) == 0
        assert target.is_alive
        assert grown < 30_000_000
        # It is as good a member as before.
        async with gossiping("late", target) as late:
            await until(lambda: "late" in alive(target.view) and "target" in alive(late.view))
            late.set_keys({"readiness": "NOT_READY"})
            await until(lambda: told(target.view, "late").keys["readiness"] == "NOT_READY")


async def test_close_is_bounded_while_datagrams_pour_in() -> None:
    async with gossiping("a") as a:
        is_over = asyncio.Event()

        async def pour() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hostile:
                while not is_over.is_set():
                    for _ in range(50):
                        hostile.sendto(b"\x53\xb0\x00\x07", ("127.0.0.1", a.port))
                    await asyncio.sleep(0)

        pouring = asyncio.create_task(pour())
        await until(lambda: a.counters.get("malformed", 0) > 1000)
        sent = a.counters["sent"]
        await asyncio.wait_for(a.close(), 5)
        is_over.set()
        await pouring
        assert a.counters["sent"] >= sent
        assert threads() == []
