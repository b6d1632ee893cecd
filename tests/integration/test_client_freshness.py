"""How old answers may be: bounds, tokens, other clusters, and what the labels say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from proxy import errors
from proxy.client import BackendRefused, ClientOptions, Consistency, Event, RoutingClient
from proxy.proto.metastore_proxy.v1 import proxy_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.members import BackendState
from tests.support.fake_node import FakeNode, Position, at, fail
from tests.support.waiting import until

REQUEST = pb.IndexMetadataRequest(index_id="hdfs-logs")
WRITE = pb.CreateIndexRequest(index_config_json="{}")
FAST: dict[str, Any] = {"freshness_interval": 0.02}


@dataclass
class Trio:
    """A primary at 0/500 and two replicas: `near` has it all, `far` stands at 0/100."""

    primary: FakeNode
    near: FakeNode
    far: FakeNode

    def client(self, *, consistency: Consistency = Consistency.EVENTUAL, **options: Any) -> Any:
        return RoutingClient(
            [self.primary.address],
            [self.near.address, self.far.address],
            allow_writes=True,
            consistency=consistency,
            options=ClientOptions(**{**FAST, **options}),
        )


@pytest.fixture
async def trio() -> AsyncIterator[Trio]:
    async with (
        FakeNode("p", role="metastore", lag=None, position=at("0/500", in_recovery=False)) as one,
        FakeNode("near", position=at("0/500")) as near,
        FakeNode("far", position=at("0/100")) as far,
    ):
        yield Trio(one, near, far)


async def known(client: RoutingClient, node: FakeNode) -> None:
    """Wait until all serve and the lag of one replica is known."""
    await client.wait_until(lambda now: all(b.is_serving for b in now.backends))
    await until(lambda: client.lag(node.address) is not None)


async def served_by(client: RoutingClient, count: int = 20, **arguments: Any) -> set[str]:
    answers = [await client.index_metadata(REQUEST, **arguments) for _ in range(count)]
    return {answer.served_by for answer in answers}


async def test_without_a_bound_every_replica_serves(trio: Trio) -> None:
    async with trio.client() as client:
        await known(client, trio.near)
        assert await served_by(client, 40) == {"near", "far"}


@pytest.mark.parametrize(
    "how",
    [
        {"options": {"max_lag": 5.0}},
        {"consistency": Consistency.bounded(5.0)},
        {"call": {"consistency": Consistency.bounded(5.0)}},
        {"call": {"metadata": [("x-metastore-max-lag", "5")]}},
    ],
    ids=["option", "client", "call", "metadata"],
)
async def test_with_a_bound_only_a_replica_within_it_serves(trio: Trio, how: Any) -> None:
    consistency = how.get("consistency", Consistency.EVENTUAL)
    async with trio.client(consistency=consistency, **how.get("options", {})) as client:
        await known(client, trio.near)
        assert await served_by(client, **how.get("call", {})) == {"near"}


async def test_a_bound_is_not_passed_on_to_a_replica_but_to_a_primary(trio: Trio) -> None:
    async with trio.client(max_lag=5.0) as client:
        await known(client, trio.near)
        bound = [("x-metastore-max-lag", "2.5"), ("x-other", "kept")]
        await client.index_metadata(REQUEST, metadata=bound)
        assert "x-metastore-max-lag" not in trio.near.metadata[-1]
        assert trio.near.metadata[-1]["x-metastore-forwarded"] == "client"
        assert trio.near.metadata[-1]["x-other"] == "kept"
        await client.index_metadata(REQUEST, metadata=[("x-metastore-max-lag", "0")])
        assert trio.primary.metadata[-1]["x-metastore-max-lag"] == "0"


async def test_an_answer_tells_the_lag_that_was_measured(trio: Trio) -> None:
    async with trio.client(max_lag=5.0) as client:
        await known(client, trio.near)
        answer = await client.index_metadata(REQUEST)
        # The node itself says 0.25.
        assert answer.lag is not None
        assert 0.0 <= answer.lag < 0.25 or answer.lag > 0.25


async def test_when_replay_stops_the_replica_is_left_for_the_primary(trio: Trio) -> None:
    async with trio.client(max_lag=0.3) as client:
        await known(client, trio.near)
        assert (await client.index_metadata(REQUEST)).route == "replica"
        trio.primary.position = at("0/600", in_recovery=False)
        await until(lambda: (client.lag(trio.near.address) or 0.0) > 0.3)
        answer = await client.index_metadata(REQUEST)
        assert (answer.served_by, answer.route) == ("p", "fallback")


@pytest.mark.parametrize("serve_stale", [True, False])
async def test_with_the_primary_gone_a_bound_costs_an_answer_or_a_label(
    trio: Trio, serve_stale: bool
) -> None:
    async with trio.client(max_lag=0.2, serve_stale=serve_stale, connect_timeout=0.3) as client:
        await known(client, trio.near)
        await trio.primary.stop()
        await until(lambda: (client.lag(trio.near.address) or 0.0) > 0.2)
        await client.wait_until(lambda now: not now.serving_primaries)
        if serve_stale:
            answer = await client.index_metadata(REQUEST)
            assert answer.route == "stale"
            assert answer.lag is None or answer.lag > 0.2
        else:
            with pytest.raises(errors.Unavailable):
                await client.index_metadata(REQUEST)


async def test_a_dead_primary_does_not_take_unbounded_readers_down(trio: Trio) -> None:
    async with trio.client() as client:
        await known(client, trio.near)
        await trio.primary.stop()
        await client.wait_until(lambda now: not now.serving_primaries)
        assert await served_by(client, 40) == {"near", "far"}


async def test_a_replica_of_another_cluster_is_refused_and_told_of() -> None:
    events: list[Event] = []
    async with (
        FakeNode("p", role="metastore", position=at("0/500", in_recovery=False)) as primary,
        FakeNode("r", position=at("0/900", cluster_identity="theirs")) as foreign,
        RoutingClient(
            [primary.address],
            [foreign.address],
            options=ClientOptions(**FAST),
            listener=events.append,
        ) as client,
    ):
        for _ in range(10):
            answer = await client.index_metadata(REQUEST)
            assert (answer.served_by, answer.route) == ("p", "fallback")
        refused = [event for event in events if isinstance(event, BackendRefused)]
        assert [(e.address, e.identity, e.expected) for e in refused] == [
            (foreign.address, "theirs", "ours")
        ]
        assert foreign.calls.total() == 0
        verdicts = client.explain("IndexMetadata").verdicts
        assert {v.backend.address: v.is_eligible for v in verdicts} == {
            primary.address: True,
            foreign.address: False,
        }


async def test_a_node_without_the_service_serves_eventual_reads_only(trio: Trio) -> None:
    trio.near.position = trio.far.position = None
    async with trio.client() as client:
        await client.wait_until(lambda now: all(b.is_serving for b in now.backends))
        assert await served_by(client, 40) == {"near", "far"}
        bounded = Consistency.bounded(3600.0)
        for consistency in (bounded, Consistency.MONOTONIC):
            assert await served_by(client, 3, consistency=consistency) == {"p"}
        assert trio.near.asked == trio.far.asked == 1


async def test_primary_consistency(trio: Trio) -> None:
    async with trio.client(consistency=Consistency.PRIMARY) as client:
        await known(client, trio.near)
        assert (await client.index_metadata(REQUEST)).route == "primary"
        assert trio.primary.metadata[-1]["x-metastore-consistency"] == "primary"
        assert await served_by(client, consistency=Consistency.EVENTUAL) <= {"near", "far"}
        said = [("x-metastore-consistency", "eventual")]
        assert await served_by(client, metadata=said) <= {"near", "far"}


@pytest.mark.parametrize(
    "metadata",
    [
        ("x-metastore-max-lag", "soon"),
        ("x-metastore-min-lsn", "12"),
        ("x-metastore-consistency", "strong"),
        ("x-metastore-want-lsn", "1"),
    ],
)
async def test_a_wish_that_does_not_parse_is_refused(trio: Trio, metadata: Any) -> None:
    async with trio.client() as client:
        with pytest.raises(errors.InvalidArgument, match=metadata[0]):
            await client.index_metadata(REQUEST, metadata=[metadata])
    assert trio.near.calls.total() + trio.far.calls.total() + trio.primary.calls.total() == 0


# Tokens


async def test_a_write_tells_its_position_and_the_next_read_asks_for_it(trio: Trio) -> None:
    trio.primary.lsn = "0/300"
    async with trio.client(consistency=Consistency.READ_YOUR_WRITES) as client:
        await known(client, trio.near)
        assert await served_by(client, 40) == {"near", "far"}
        assert (await client.create_index(WRITE)).lsn == "0/300"
        assert await served_by(client) == {"near"}
        assert trio.near.metadata[-1]["x-metastore-min-lsn"] == "0/300"
        # Another client that was handed the token.
        async with trio.client() as other:
            await known(other, trio.near)
            assert await served_by(other, min_lsn="0/300") == {"near"}
            assert await served_by(other, 40) == {"near", "far"}


async def test_a_write_without_a_position_sends_the_reads_after_it_to_the_primary(
    trio: Trio,
) -> None:
    async with trio.client(consistency=Consistency.READ_YOUR_WRITES) as client:
        await known(client, trio.near)
        await client.create_index(WRITE)
        assert await served_by(client) == {"p"}
        trio.primary.lsn = "0/300"
        assert await served_by(client) == {"p", "near"}


async def test_a_replica_that_keeps_up_is_asked_and_its_refusal_is_no_failure(trio: Trio) -> None:
    trio.primary.lsn = "0/700"

    async def refusing(_name: str, _raw: bytes, context: Any) -> bytes:
        if "x-metastore-min-lsn" in dict(context.invocation_metadata()):
            await fail(context, errors.Unavailable("behind"))
        return b""

    trio.near.unary = trio.far.unary = refusing
    # Fresh enough to be asked whatever the machine is busy with.
    options = {"freshness_interval": 0.3}
    async with trio.client(consistency=Consistency.READ_YOUR_WRITES, **options) as client:
        await known(client, trio.near)
        await client.create_index(WRITE)
        for _ in range(30):
            answer = await client.index_metadata(REQUEST)
            assert (answer.served_by, answer.route) == ("p", "fallback")
        now = client.backends().get(trio.near.address)
        assert now is not None
        assert (now.state, now.is_ejected) == (BackendState.SERVING, False)
        assert 0 < trio.near.calls["IndexMetadata"] <= 30
        assert trio.far.calls.total() == 0
        # Refusals are not paid for by the retry budget.
        assert client._pool.board.budget.spent == 0


async def test_one_replica_waits_for_a_position_before_the_primary_is_asked(trio: Trio) -> None:
    async def refusing(_name: str, _raw: bytes, context: Any) -> bytes:
        await fail(context, errors.Unavailable("behind"))
        return b""

    trio.near.unary = trio.far.unary = trio.primary.unary = refusing
    trio.far.position = at("0/500")
    async with trio.client(freshness_interval=0.3) as client:
        await known(client, trio.near)
        await known(client, trio.far)
        with pytest.raises(errors.Unavailable, match="behind"):
            await client.index_metadata(REQUEST, min_lsn="FFFFFFFF/FFFFFFFF")
    assert trio.near.calls.total() + trio.far.calls.total() == 1
    assert trio.primary.calls.total() == 1


async def test_a_token_no_replica_has_fails_without_a_primary(trio: Trio) -> None:
    async with trio.client(connect_timeout=0.3, serve_stale=True, max_lag=60.0) as client:
        await known(client, trio.near)
        await trio.primary.stop()
        await client.wait_until(lambda now: not now.serving_primaries)
        await until(lambda: (client.lag(trio.near.address) or 0.0) > 0.1)
        assert await served_by(client, 5, min_lsn="0/500") == {"near"}
        with pytest.raises(errors.Unavailable):
            await client.index_metadata(REQUEST, min_lsn="0/501")


async def test_monotonic_reads_never_go_back(trio: Trio) -> None:
    trio.near.lsn, trio.far.lsn, trio.primary.lsn = "0/500", "0/100", "0/500"
    for _ in range(5):
        async with trio.client(consistency=Consistency.MONOTONIC) as client:
            await known(client, trio.near)
            answers = [await client.index_metadata(REQUEST) for _ in range(30)]
            seen = [answer.lsn for answer in answers]
            assert seen == sorted(seen)
            assert seen[-1] == "0/500"


async def test_monotonic_streams_count_too(trio: Trio) -> None:
    trio.near.lsn = trio.far.lsn = "0/500"
    async with trio.client(consistency=Consistency.MONOTONIC) as client:
        await known(client, trio.near)
        async with client.list_splits(pb.ListSplitsRequest(query_json="{}")) as stream:
            assert [message async for message in stream] == []
        assert stream.lsn == "0/500"
        assert await served_by(client) == {"near"}


async def test_a_monotonic_answer_without_a_position_pins_the_client_to_the_primary(
    trio: Trio,
) -> None:
    async with trio.client(consistency=Consistency.MONOTONIC) as client:
        await known(client, trio.near)
        await client.index_metadata(REQUEST)
        assert await served_by(client, 5) == {"p"}


# Questions


async def test_a_replica_that_stops_answering_questions_is_taken_for_dead(trio: Trio) -> None:
    async with trio.client(freshness_timeout=0.2) as client:
        await known(client, trio.near)

        async def hang() -> proxy_pb2.GetReplicationResponse:
            await asyncio.Event().wait()
            raise AssertionError

        trio.near.position = hang
        await client.wait_until(
            lambda now: getattr(now.get(trio.near.address), "state", None) is BackendState.DOWN
        )
        assert await served_by(client) == {"far"}
        trio.near.position = at("0/500")
        await known(client, trio.near)


async def test_a_replica_that_cannot_answer_grows_old(trio: Trio) -> None:
    async with trio.client() as client:
        await known(client, trio.near)

        def raising() -> Position:
            async def position() -> proxy_pb2.GetReplicationResponse:
                raise LookupError("from the test")

            return position

        trio.near.position = raising()
        await until(lambda: (client.lag(trio.near.address) or 0.0) > 0.3)
        now = client.backends().get(trio.near.address)
        assert now is not None
        assert now.is_serving


async def test_questions_end_with_the_client(trio: Trio) -> None:
    async with trio.client() as client:
        await known(client, trio.near)
        await until(lambda: trio.near.asked > 3)
    asked = trio.near.asked
    await asyncio.sleep(0.1)
    assert trio.near.asked == asked


@pytest.mark.parametrize(
    ("said", "route", "lag"),
    [("stale", "stale", 0.25), ("replica", "replica", 0.25), ("nonsense", "replica", None)],
)
async def test_a_backend_that_routed_the_call_itself_knows_better(
    trio: Trio, said: str, route: str, lag: float | None
) -> None:
    async with trio.client() as client:
        await known(client, trio.near)
        for node in (trio.near, trio.far):
            node.say(("x-metastore-route", said))
        # `far` alone stands at an unknown lag.
        answer = await client.index_metadata(REQUEST, consistency=Consistency.bounded(60.0))
        assert answer.route == route
        assert answer.lag == lag if lag is not None else answer.lag not in (None, 0.25)
