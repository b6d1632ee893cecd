"""`metastore-proxy explain`, as a process, against scripted nodes and a router."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from proxy.roles import Role
from tests.support.fake_node import FakeNode
from tests.support.nodes import address, node_config, running
from tests.support.routers import router_config, routing


async def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("QW_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", "explain", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_explain_by_a_router_and_by_oneself() -> None:
    async with (
        FakeNode("primary-1", role="metastore") as primary,
        FakeNode("replica-1") as replica,
        routing(router_config([primary.address], [replica.address])) as router,
    ):
        by_router = await explain("ListSplits", "--router", address(router))
        assert by_router.returncode == 0, by_router.stderr
        assert f"* {replica.address}" in by_router.stdout
        targets = ["--primary", primary.address, "--replica", replica.address]
        by_itself = await explain("ListSplits", "--max-lag", "1s", *targets)
        assert by_itself.returncode == 0, by_itself.stderr
        assert f"* {primary.address}" in by_itself.stdout
        assert "its lag is unknown" in by_itself.stdout
        as_json = await explain("CreateIndex", "--json", "--router", address(router))
        answer = json.loads(as_json.stdout)
        assert answer["chosen"] == primary.address
        assert answer["route"] == "primary"
        assert {one["address"] for one in answer["verdicts"]} == {
            primary.address,
            replica.address,
        }


async def test_explain_says_when_nothing_can_take_the_call() -> None:
    result = await explain("IndexMetadata", "--replica", "127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stdout
    assert "Traceback" not in result.stderr


async def test_explain_asks_a_node_that_sends_no_calls_to_others() -> None:
    config = node_config(Role.READ_REPLICA, "postgresql://u@127.0.0.1:1/d", node_id="replica-1")
    async with running(config, wait=False) as node:
        read = await explain("ListSplits", "--router", address(node))
        assert (read.returncode, read.stderr) == (0, "")
        assert "replica-1" in read.stdout
        write = await explain("CreateIndex", "--router", address(node))
        assert write.returncode == 1
        assert "the call is a write" in write.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (["Nonsense", "--router", "127.0.0.1:1"], 2, "is not an RPC"),
        (["IndexMetadata"], 2, "--primary HOST:PORT"),
        (["IndexMetadata", "--max-lag", "5", "--router", "127.0.0.1:1"], 2, "--max-lag"),
        (["IndexMetadata", "--router", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (["IndexMetadata", "--min-lsn", "5", "--primary", "127.0.0.1:1"], 1, "x-metastore-min-lsn"),
        (["IndexMetadata", "--primary", "nonsense"], 2, "nonsense"),
    ],
)
async def test_explain_refuses_in_one_line(arguments: list[str], status: int, named: str) -> None:
    result = await explain(*arguments)
    assert result.returncode == status, result.stderr
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
