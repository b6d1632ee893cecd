"""What tests ask of a node: calls, health, HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy.demo import dataset
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.nodes import address
from tests.support.remote_access import GrpcWay


@asynccontextmanager
async def channel_to(node: Node) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address(node)) as channel:
        yield channel


async def http_get(node: Node, path: str) -> tuple[int, str]:
    url = f"http://{node.config.listen_address}:{node.config.rest_listen_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def health_of(channel: grpc.aio.Channel, service: str) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def create_index(way: GrpcWay, index_id: str = "hdfs-logs") -> pb.CreateIndexResponse:
    config = json.loads(dataset.index_config()) | {"index_id": index_id}
    return await way.call(
        "CreateIndex", pb.CreateIndexRequest(index_config_json=json.dumps(config))
    )
