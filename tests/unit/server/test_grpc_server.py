"""The limits of the gRPC server."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy.config import GrpcSettings, NodeConfig
from proxy.demo.postgres_host import free_port
from proxy.node import Node
from proxy.roles import Role
from proxy.server.grpc_server import GrpcServer
from tests.support.nodes import address, node_config, running


def unreachable_node() -> Node:
    return Node(node_config(Role.METASTORE, f"postgresql://u@127.0.0.1:{free_port()}/db"))


async def test_metadata_up_to_quickwits_limit_is_taken() -> None:
    config = unreachable_node().config
    async with (
        running(config, wait=False) as node,
        grpc.aio.insecure_channel(address(node)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(20):
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(), metadata=(("x-baggage", "b" * 14_000),)
            )
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_largest_message_limit_can_be_served() -> None:
    config = unreachable_node().config
    largest = replace(config, grpc=GrpcSettings(max_message_size=0x7FFFFFFF))
    async with (
        running(largest, wait=False) as node,
        grpc.aio.insecure_channel(address(node)) as channel,
    ):
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_stops_that_meet_end_the_server_once() -> None:
    config = NodeConfig(role=Role.METASTORE, grpc_listen_port=0)
    for number in range(200):
        server = GrpcServer(config, [])
        await server.open()
        hurry = asyncio.Event()
        if number % 2:
            hurry.set()
        else:
            asyncio.get_running_loop().call_soon(hurry.set)
        await server.close(0.0 if number % 4 < 2 else 5.0, hurry=hurry)
