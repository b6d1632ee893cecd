"""Nodes on the real pair: how they end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxy import errors
from proxy.node import Node
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.roles import Role
from tests.support.node_calls import channel_to, create_index
from tests.support.nodes import node_config, running
from tests.support.postgres import Scratch, opened
from tests.support.remote_access import GrpcWay
from tests.support.waiting import until


async def test_draining_lets_calls_in_flight_finish(migrated_database: Scratch) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    async with running(config) as node, channel_to(node) as channel:
        way = GrpcWay(channel)
        uid = (await create_index(way)).index_uid
        async with opened(migrated_database.primary_uri) as database:
            async with database.transaction() as session:
                await session.execute("SELECT 1 FROM indexes FOR UPDATE")
                blocked = asyncio.create_task(
                    way.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))
                )
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                await until(lambda: migrated_database.value(waiting))
                closing = asyncio.create_task(node.close())
                await until(lambda: node.readiness.is_draining)
                assert not blocked.done()
            await blocked
        await closing


async def test_a_second_signal_ends_the_drain(migrated_database: Scratch, tmp_path: Path) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri, QW_DATA_DIR=str(tmp_path))
    node = Node(config)
    running_node = asyncio.create_task(node.run())
    await until(lambda: node.readiness.is_ready, lambda: node.readiness.failures)
    async with channel_to(node) as channel, opened(migrated_database.primary_uri) as database:
        way = GrpcWay(channel)
        uid = (await create_index(way)).index_uid
        async with database.transaction() as session:
            await session.execute("SELECT 1 FROM indexes FOR UPDATE")
            blocked = asyncio.create_task(
                way.call("DeleteIndex", pb.DeleteIndexRequest(index_uid=uid))
            )
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            await until(lambda: migrated_database.value(waiting))
            # The first from whoever stops it, the second from a person who will not wait.
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: node.readiness.is_draining)
            assert not blocked.done()
            os.kill(os.getpid(), signal.SIGINT)
            async with asyncio.timeout(config.proxy.drain_timeout / 2):
                with pytest.raises(errors.MetastoreError):
                    await blocked
                await running_node


async def test_a_watcher_hears_of_the_drain_before_calls_are_refused(
    migrated_database: Scratch,
) -> None:
    config = node_config(Role.METASTORE, migrated_database.primary_uri)
    async with running(config) as node, channel_to(node) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        closing = asyncio.create_task(node.close())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await GrpcWay(channel).call("ListIndexTemplates", pb.ListIndexTemplatesRequest())
        watch.cancel()
        await closing
