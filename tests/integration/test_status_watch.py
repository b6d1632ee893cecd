"""`metastore-proxy status` shows what a node's status page shows, once or again and again."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from proxy import errors
from proxy.commands.status import run as status
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.router_node import RouterNode
from proxy.server.proxy_service import proxy_service
from tests.support.fake_node import FakeNode
from tests.support.nodes import address
from tests.support.routers import router_config, routing
from tests.support.waiting import until


def options(node: str, **given: Any) -> Namespace:
    return Namespace(**{"node": node, "config": None, "json": False, "watch": False, **given})


@pytest.fixture
async def replica() -> AsyncIterator[FakeNode]:
    async with FakeNode("replica-1") as running:
        yield running


@pytest.fixture
async def router(replica: FakeNode) -> AsyncIterator[RouterNode]:
    """A router in front of a replica, whose primary does not answer."""
    async with routing(router_config(["127.0.0.1:1"], [replica.address])) as running:
        await until(lambda: running.status.look().findings)
        yield running


async def test_without_a_primary_it_says_what_is_wrong_and_fails(
    router: RouterNode, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.Unavailable, match="no primary can be named"):
        await status(options(address(router)))
    first, where, wrong, advice, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("router-1 (metastore_router ")
    assert where.startswith("writes fail; reads ")
    assert wrong.startswith("ERROR   primary 127.0.0.1:1 is down: writes fail; reads ")
    assert advice.startswith("        -> see whether its process runs")


async def test_as_json_it_has_both_answers(
    router: RouterNode, replica: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.Unavailable):
        await status(options(address(router), json=True))
    shown = json.loads(capsys.readouterr().out)
    assert shown["primaries"] == []
    assert "no primary can be named" in shown["error"]
    assert shown["status"]["findings"][0]["severity"] == "error"
    assert {node["name"] for node in shown["status"]["nodes"]} == {
        "127.0.0.1:1",
        replica.address,
        "router-1",
    }


async def test_of_an_older_node_it_shows_what_that_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def tell(*, own_only: bool, time_left: float | None) -> pb.GetClusterInfoResponse:
        assert not own_only
        primary = pb.ClusterMember(node_id="metastore-1", grpc_address="10.0.0.5:7281")
        return pb.GetClusterInfoResponse(
            cluster_id="c", answered_by="old-1", source="gossip", primaries=[primary]
        )

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((proxy_service(None, None, tell),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert await status(options(f"127.0.0.1:{port}")) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("cluster c, as old-1 knows it by gossip\nprimary: metastore-1 at")
        assert await status(options(f"127.0.0.1:{port}", json=True)) == 0
        assert json.loads(capsys.readouterr().out)["status"] is None
    finally:
        await server.stop(0)


class Watch:
    """A `status --watch` of its own process, and what it wrote so far."""

    def __init__(self, node: str, *, is_terminal: bool) -> None:
        self._raw = b""
        self._is_terminal = is_terminal
        read, write = pty.openpty() if is_terminal else os.pipe()
        os.set_blocking(read, False)
        self._read = read
        environ = {key: value for key, value in os.environ.items() if not key.startswith("QW_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "status", "--watch", "--node", node],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
        )
        os.close(write)

    @property
    def written(self) -> str:
        """What it wrote until `shows` was last asked."""
        return self._raw.decode(errors="replace")

    def shows(self, text: str, times: int) -> bool:
        """Whether it has written a text so often."""
        # Nothing yet, or of a terminal that its process is gone.
        with suppress(BlockingIOError, OSError):
            self._raw += os.read(self._read, 1 << 20)
        return self.written.count(text) >= times

    async def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        code = await asyncio.to_thread(self.process.wait, 20)
        assert self.process.stderr is not None
        assert self.process.stderr.read() == b""
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        os.close(self._read)


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_a_terminal_is_written_over_and_a_file_is_added_to(
    router: RouterNode, is_terminal: bool
) -> None:
    watch = Watch(address(router), is_terminal=is_terminal)
    try:
        await until(lambda: watch.shows("router-1 (metastore_router ", 2), lambda: watch.written)
        assert await watch.interrupt() == 130
    finally:
        watch.close()
    assert watch.written.count("\x1b[2J") == int(is_terminal)
    assert ("\x1b[H" in watch.written) is is_terminal
    # What fails is what one watches for.
    assert "no primary can be named" in watch.written
