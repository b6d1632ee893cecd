"""Nodes that are set up wrongly together say so, each in an ERROR line and on its own list."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from proxy.node import Node
from proxy.roles import Role
from proxy.store.lag import HEARTBEAT_KEY
from tests.support.members import member_config, ready, seed_of
from tests.support.nodes import running
from tests.support.postgres import Scratch
from tests.support.waiting import until

M = Role.METASTORE
R = Role.READ_REPLICA


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.membership._PATIENCE", (5.0, 0.2))
    monkeypatch.setattr("proxy.alarms.GONE", 1.0)


def uri(scratch: Scratch, role: Role) -> str:
    return scratch.primary_uri if role is M else scratch.standby_uri


def error_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.ERROR and record.name == "proxy.membership"
    ]


async def raised(nodes: Sequence[Node]) -> list[str]:
    """Wait until some node has an alarm; return all there are."""
    await until(lambda: any(node.membership.alarms for node in nodes))
    return [alarm for node in nodes for alarm in node.membership.alarms]


# The second node is the one that must notice: the first one stamps, and cannot see the row change.
@pytest.mark.parametrize(
    ("second", "node_id", "cluster_id", "expected"),
    [
        (R, "b", "cluster-a", "because `peer_seeds` is not set"),
        (M, "b", "cluster-a", "because `peer_seeds` is not set"),
        (R, "b", "cluster-b", "its `cluster_id` is `cluster-a`, that of this node `cluster-b`"),
        (M, "b", "cluster-b", "its `cluster_id` is `cluster-a`, that of this node `cluster-b`"),
        (R, "a", "cluster-a", "two nodes have the `node_id` `a`"),
        (M, "a", "cluster-b", "two nodes have the `node_id` `a`"),
    ],
)
async def test_nodes_that_do_not_know_each_other_find_it_in_the_database(
    clean: Scratch,
    caplog: pytest.LogCaptureFixture,
    second: Role,
    node_id: str,
    cluster_id: str,
    expected: str,
) -> None:
    first = member_config(M, clean.primary_uri, "a")
    other = member_config(second, uri(clean, second), node_id, cluster_id=cluster_id)
    async with running(first) as a, running(other) as b:
        (alarm,) = await raised([a, b])
        assert expected in alarm
        if "peer_seeds" in expected:
            assert f"[{seed_of(a)[0]}]" in alarm
        await until(lambda: error_lines(caplog) == [alarm])
        # It ends with its cause.
        await a.close()
        if second is R:
            await until(lambda: b.membership.alarms == ())


@pytest.mark.parametrize("second", [M, R])
async def test_gossip_finds_two_nodes_with_one_id(
    clean: Scratch, caplog: pytest.LogCaptureFixture, second: Role
) -> None:
    async with running(member_config(M, clean.primary_uri, "seed")) as seed:
        seeds = seed_of(seed)
        one = member_config(R, clean.standby_uri, "twin", seeds)
        two = member_config(second, uri(clean, second), "twin", seeds)
        async with running(one) as a, running(two) as b:
            for node in (seed, a, b):
                (alarm,) = await raised([node])
                assert "two nodes have the `node_id` `twin`" in alarm
            await until(lambda: len(error_lines(caplog)) == 3)


async def test_a_seed_of_another_cluster_is_named(
    clean: Scratch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(member_config(M, clean.primary_uri, "a")) as a:
        other = member_config(*(R, clean.standby_uri, "b", seed_of(a)), cluster_id="cluster-b")
        async with running(other) as b:
            await until(lambda: len(b.membership.alarms) == 2)
            by_gossip = next(alarm for alarm in b.membership.alarms if "the node at" in alarm)
            assert (
                f"the node at {seed_of(a)[0]} is of another cluster than `cluster-b`" in by_gossip
            )
            await until(lambda: by_gossip in error_lines(caplog))
            # The database tells it as well, to nodes that have no seeds.
            assert any("`cluster_id` is `cluster-a`" in alarm for alarm in b.membership.alarms)


async def test_restarts_and_nodes_that_know_each_other_raise_nothing(
    clean: Scratch, caplog: pytest.LogCaptureFixture
) -> None:
    stamper = f"SELECT value::jsonb->>'at' FROM kv WHERE key = '{HEARTBEAT_KEY}'"
    first = member_config(M, clean.primary_uri, "a")
    async with running(first) as a:
        second = member_config(R, clean.standby_uri, "b", seed_of(a))
        async with running(second) as b:
            await until(lambda: ready(a) == ready(b) == ["a", "b"])
            nodes = [a]
            for _ in range(2):
                await nodes[-1].close()
                async with running(first) as again:
                    nodes.append(again)
                    start = await clean.value(stamper)

                    async def has_gone_on(start: str = start) -> bool:
                        at = float(await clean.value(stamper))
                        return at > float(start) + 0.5

                    await until(has_gone_on)
                    await until(lambda: ready(b) == ["a", "b"])
                    assert (again.membership.alarms, b.membership.alarms) == ((), ())
    assert error_lines(caplog) == []


async def test_a_row_of_an_earlier_version_says_nothing(clean: Scratch) -> None:
    config = member_config(R, clean.standby_uri, "b")
    async with running(config, wait=False) as b:
        for _ in range(10):
            await clean.value(
                "INSERT INTO kv VALUES ($1, json_build_object('at', extract(EPOCH FROM "
                "clock_timestamp())::float8, 'timeline', 1, 'node', 'old')::text) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING 1",
                HEARTBEAT_KEY,
            )
        await until(lambda: b._supervisor.lag is not None)
        assert b.membership.alarms == ()
