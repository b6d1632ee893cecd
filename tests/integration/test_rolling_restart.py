"""Routers behind one Service are replaced one by one: a plain channel loses no call by it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import grpc

from proxy.config import NodeConfig
from proxy.router_node import RouterNode
from tests.support.balancer import balancing
from tests.support.fake_node import FakeNode
from tests.support.routers import Caller, router_config
from tests.support.waiting import until

CALLERS = 32
TURNS = 3


def config_of(backend: FakeNode) -> NodeConfig:
    config = router_config([backend.address], shutdown_delay="50ms")
    return replace(config, grpc=replace(config.grpc, max_connection_age=0.5))


async def test_a_plain_channel_loses_no_call() -> None:
    done, failures = 0, Counter[str]()
    async with FakeNode("primary-1", role="metastore", lag=None) as backend, balancing() as service:
        routers: list[RouterNode] = []

        async def start() -> None:
            routers.append(RouterNode(config_of(backend)))
            await routers[-1].open()
            await until(lambda: routers[-1].readiness.is_ready)
            service.endpoints = [("127.0.0.1", routers[-1].config.grpc_listen_port)]

        async def call(caller: Caller) -> None:
            nonlocal done
            while True:
                try:
                    await caller.unary("CreateIndex")
                except grpc.aio.AioRpcError as error:
                    failures[f"{error.code().name} {error.details()}"] += 1
                done += 1

        await start()
        async with Caller(service.address) as caller:
            calling = [asyncio.create_task(call(caller)) for _ in range(CALLERS)]
            try:
                for _ in range(TURNS):
                    before = done
                    await until(lambda: done >= before + 10 * CALLERS)  # noqa: B023
                    leaving = routers[-1]
                    # New connections go to the next one from here on.
                    await start()
                    await leaving.close()
            finally:
                for task in calling:
                    task.cancel()
                await asyncio.wait(calling)
        await routers[-1].close()
    assert failures == {}
    # Each turn the callers were at a router until it was told to end.
    assert [router.observer.begun >= 10 * CALLERS for router in routers[:-1]] == [True] * TURNS
