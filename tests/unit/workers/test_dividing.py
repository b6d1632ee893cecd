"""What each worker gets of its node's limits."""

from __future__ import annotations

import pytest

from proxy.config import NodeConfig, PoolSettings, ProxySettings, Worker
from proxy.roles import Role
from proxy.workers.dividing import for_worker, parse_worker, render_worker


def config_of(number: int, count: int, **pool: int) -> NodeConfig:
    node = NodeConfig(
        Role.METASTORE,
        pool=PoolSettings(**pool),
        proxy=ProxySettings(fallback_concurrency=5, retry_reserve=0, workers=count),
    )
    return for_worker(node, Worker(number, count, 7, "run"))


@pytest.mark.parametrize(
    ("most", "least", "count", "expected"),
    [
        (10, 0, 2, [(5, 0), (5, 0)]),
        (10, 3, 3, [(4, 1), (3, 1), (3, 1)]),
        (1, 1, 2, [(1, 1), (1, 1)]),
        (10, 10, 1, [(10, 10)]),
    ],
)
def test_connections_are_shared_out(
    most: int, least: int, count: int, expected: list[tuple[int, int]]
) -> None:
    pools = [
        config_of(number + 1, count, max_connections=most, min_connections=least).pool
        for number in range(count)
    ]
    assert [(pool.max_connections, pool.min_connections) for pool in pools] == expected


def test_limits_of_routing_are_shared_out() -> None:
    shares = [config_of(number, 2).proxy for number in (1, 2)]
    assert [share.fallback_concurrency for share in shares] == [3, 2]
    assert [share.retry_reserve for share in shares] == [0, 0]
    assert all(share.workers == 2 for share in shares)


def test_migrations_and_the_heartbeat_are_the_first_ones() -> None:
    first, second = config_of(1, 2), config_of(2, 2)
    assert (first.postgres.skip_migrations, first.proxy.heartbeat_interval) == (False, 1.0)
    assert (second.postgres.skip_migrations, second.proxy.heartbeat_interval) == (True, None)
    assert first.worker is not None
    assert second.worker is not None
    assert (first.worker.is_first, second.worker.is_first) == (True, False)


@pytest.mark.parametrize("is_replacement", [False, True])
def test_a_worker_is_named_on_its_command_line(is_replacement: bool) -> None:
    worker = Worker(2, 4, 9, "47c72e23", is_replacement)
    assert parse_worker(render_worker(worker)) == worker


@pytest.mark.parametrize("text", ["", "1", "1:2:3:run", "x:2:3:run:first"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        parse_worker(text)
