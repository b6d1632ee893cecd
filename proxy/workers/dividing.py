"""What a worker's configuration is, given that of its node: limits are shared out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from proxy.config import NodeConfig, Worker

_REPLACEMENT: Final = "replacement"
# What a drain may take beyond the bounds of the configuration, in seconds.
_SLACK: Final = 10.0
# Gossip's farewell, in intervals; see `proxy.membership`.
_FAREWELL: Final = 2.0


def for_worker(config: NodeConfig, worker: Worker) -> NodeConfig:
    """Return the configuration of one worker.

    Of the pool's connections, the reads that a primary takes in place of replicas, and the reserve
    of retries each gets its part, no less than one where the node has any. Migrations and the
    heartbeat are the first one's.
    """

    def part(whole: int) -> int:
        share, rest = divmod(whole, worker.count)
        return max(min(1, whole), share + (worker.number <= rest))

    pool, proxy = config.pool, config.proxy
    most = part(pool.max_connections)
    return replace(
        config,
        worker=worker,
        pool=replace(
            pool,
            max_connections=most,
            min_connections=min(most, part(pool.min_connections)),
        ),
        proxy=replace(
            proxy,
            fallback_concurrency=part(proxy.fallback_concurrency),
            retry_reserve=part(proxy.retry_reserve),
            heartbeat_interval=proxy.heartbeat_interval if worker.is_first else None,
        ),
        postgres=replace(
            config.postgres,
            skip_migrations=config.postgres.skip_migrations or not worker.is_first,
        ),
    )


def drain_bound(config: NodeConfig) -> float:
    """Return the seconds that a worker has for its drain before it is killed."""
    proxy = config.proxy
    farewell = _FAREWELL * config.gossip_interval if proxy.gossip else 0.0
    return max(proxy.shutdown_delay, farewell) + proxy.drain_timeout + _SLACK


def parse_worker(text: str) -> Worker:
    """Return what `render_worker` wrote. ValueError for anything else."""
    number, count, link, run, kind = text.split(":")
    return Worker(int(number), int(count), int(link), run, kind == _REPLACEMENT)


def render_worker(worker: Worker) -> str:
    """Return a worker as `NUMBER:COUNT:LINK:RUN:KIND`."""
    kind = _REPLACEMENT if worker.is_replacement else "first"
    return f"{worker.number}:{worker.count}:{worker.link}:{worker.run}:{kind}"
