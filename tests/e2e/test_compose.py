"""All of docker-compose.yml that is ours, and its PostgreSQL pair, run by what the file says.

Commands, environment, configs, health checks and the order of the start are those of the file; see
`tests.support.deployed` for what is translated.
"""

from __future__ import annotations

import asyncio
import json
import logging

import aiohttp
import grpc

from tests.support import promtool
from tests.support.compose import load
from tests.support.compose_run import ComposeRun, compose_run
from tests.support.main_job import SPLITS, Served, list_published, publish, split_count
from tests.support.waiting import until

log = logging.getLogger(__name__)

SERVICES = (
    "postgres-primary",
    "postgres-replica",
    "migrate",
    "metastore",
    "replica-1",
    "replica-2",
    "router",
)
REPLICAS = {"replica-1", "replica-2"}
OTHERS = {"metastore", "router"}


async def served_by(channel: grpc.aio.Channel, uid: str, nodes: set[str]) -> list[Served]:
    """Read until each of the nodes has answered, and nobody else in the last round."""
    answers: list[Served] = []

    async def all_have() -> bool:
        answers[:] = [await list_published(channel, uid) for _ in range(12)]
        return {one.by for one in answers} == nodes

    await until(all_have, lambda: f"{[(one.by, one.route) for one in answers]}", timeout=30)
    return answers


async def test_the_main_job_runs_through_the_router() -> None:
    file = load()
    ours = {service.name for service in file.services.values() if service.is_ours}
    assert ours | {"postgres-primary", "postgres-replica"} == set(SERVICES)
    async with compose_run(file) as run:
        await run.up(*SERVICES)

        async with grpc.aio.insecure_channel(f"{run.deployed.addresses['router']}:7281") as router:
            uid, position = await publish(router, "orders")
            written = await list_published(router, uid, x_metastore_min_lsn=position)
            assert split_count(written) == SPLITS

            answers = await served_by(router, uid, REPLICAS)
            assert {(one.route, split_count(one)) for one in answers} == {("replica", SPLITS)}

            await the_readme_s_command_works(run)
            await scraped_by_prometheus(run)

            for name in REPLICAS:
                await run.deployed.running[name].kill()
            answers = await served_by(router, uid, {"metastore"})
            assert {(one.route, split_count(one)) for one in answers} == {("fallback", SPLITS)}

        await ends_in_order(run)


async def the_readme_s_command_works(run: ComposeRun) -> None:
    """Any container tells who is there, though the role is not in its file."""
    for name in ("router", "replica-1", "metastore"):
        told = json.loads(await run.deployed.execute(name, "metastore-proxy", "status", "--json"))
        members = [*told["primaries"], *told["members"]]
        assert {member["node_id"] for member in members} == REPLICAS | OTHERS


async def scraped_by_prometheus(run: ComposeRun) -> None:
    """Prometheus, by the file's command and config, scrapes every node, if it can be had."""
    try:
        await run.up("prometheus")
    except promtool.Missing as missing:
        log.warning("Prometheus is left out: %s", missing)
        return
    url = f"http://{run.deployed.addresses['prometheus']}:9090/api/v1/targets"

    async def healths() -> dict[str, str]:
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            targets = (await answer.json())["data"]["activeTargets"]
        return {
            one["labels"]["instance"]: one["health"]
            for one in targets
            if one["labels"]["job"] == "metastore-proxy"
        }

    expected = {f"{run.deployed.addresses[name]}:7280": "up" for name in (*REPLICAS, *OTHERS)}

    async def all_up() -> bool:
        return await healths() == expected

    await until(all_up, run.deployed.running["prometheus"].log_tail, timeout=30)


async def ends_in_order(run: ComposeRun) -> None:
    """A node whose database is gone is unhealthy; all end by the signal that Docker sends."""
    assert await run.deployed.healthy("metastore")
    await run.deployed.running["postgres-primary"].kill()

    async def is_unhealthy() -> bool:
        return not await run.deployed.healthy("metastore")

    await until(is_unhealthy, lambda: "the metastore is healthy without its database", timeout=30)
    nodes = [run.deployed.running[name] for name in ("router", "metastore")]
    assert await asyncio.gather(*(node.terminate() for node in nodes)) == [0, 0]
