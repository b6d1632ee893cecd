"""Taking a node out of service: by the command, by SIGTERM, by both, and who may not."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.commands.drain import run as drain
from proxy.commands.refusal import UsageError
from proxy.demo.processes import NodeProcess
from proxy.roles import Role
from proxy.router_node import RouterNode
from proxy.server.control_protocol import DrainState, sockets_in
from tests.support.fake_node import FakeNode
from tests.support.log_lines import written
from tests.support.routers import Caller, router_config
from tests.support.waiting import until


class Running:
    """A router that runs as a process does, in the test's own, and a call that it may hold."""

    def __init__(self, node: RouterNode, backend: FakeNode) -> None:
        self.node = node
        self.task = asyncio.create_task(node.run())
        self.go_on = asyncio.Event()
        self.backend = backend
        self.begun = asyncio.Event()
        backend.unary = self._hold
        self.caller = Caller(f"127.0.0.1:{node.config.grpc_listen_port}")

    async def _hold(self, name: str, _raw: bytes, _context: Any) -> bytes:
        if name == "CreateIndex":
            self.begun.set()
            await self.go_on.wait()
        return b""

    async def held(self) -> asyncio.Task[Any]:
        """Make a call that waits for `go_on`."""
        call = asyncio.create_task(self.caller.unary("CreateIndex", timeout=60))
        await self.begun.wait()
        return call

    async def read(self) -> None:
        """Make a call that is answered at once."""
        await self.caller.unary("IndexMetadata")


@pytest.fixture
async def backend() -> AsyncIterator[FakeNode]:
    async with FakeNode("primary-1", role="metastore", lag=None) as node:
        yield node


@asynccontextmanager
async def router(
    backend: FakeNode, data_dir: Path, node_id: str = "router-1", **settings: Any
) -> AsyncIterator[Running]:
    config = router_config([backend.address], node_id=node_id, **settings)
    running = Running(RouterNode(replace(config, data_dir=str(data_dir))), backend)
    try:
        await until(lambda: running.node.readiness.is_ready, lambda: running.task)
        yield running
    finally:
        running.go_on.set()
        await running.caller.channel.close()
        # Not by a signal: another node of the same process may have the handlers.
        running.node.drain.hurry()
        running.task.cancel()
        await asyncio.wait({running.task})


def at(data_dir: Path | None, node_id: str | None = None, **more: Any) -> Namespace:
    """Return the arguments of the command."""
    place = None if data_dir is None else str(data_dir)
    given = {"config": None, "timeout": None, **more}
    return Namespace(data_dir=place, node_id=node_id, **given)


async def test_a_drained_node_serves_until_sigterm(
    backend: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with router(backend, tmp_path) as running:
        call = await running.held()
        draining = asyncio.create_task(drain(at(tmp_path)))
        await until(lambda: running.node.drain.state is DrainState.FINISHING)
        assert running.node.readiness.failures == {"draining": "the node is shutting down"}
        await running.read()
        assert not draining.done()
        running.go_on.set()
        assert await draining == 0
        await call
        name = f"router-1 (process {os.getpid()})"
        told = capsys.readouterr().out.splitlines()
        assert f"{name} waits for 1 call in flight, 0 s of at most 25 s" in told
        assert told[-1].startswith(f"{name} is drained after ")
        # It can be asked for again, and serves on.
        assert await drain(at(tmp_path)) == 0
        told = capsys.readouterr().out.splitlines()
        assert told == [f"{name} is drained already; it serves on until SIGTERM ends it"]
        await running.read()
        assert not running.task.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running.task, 10)
    assert sockets_in(tmp_path) == []


async def test_a_drain_has_a_bound(
    backend: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with router(backend, tmp_path, drain_timeout="300ms") as running:
        call = await running.held()
        assert await drain(at(tmp_path)) == 1
        said = capsys.readouterr().err
        assert "is not drained after 0.3 s: 1 calls are in flight" in said
        assert "raise `proxy.drain_timeout`" in said
        assert not call.done()
        # Calls that are left when the bound is over end with the node.
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running.task, 10)
        await asyncio.wait({call})
        assert call.exception() is not None


async def test_calls_after_the_drain_are_finished_as_well(
    backend: FakeNode, tmp_path: Path
) -> None:
    async with router(backend, tmp_path, drain_timeout="10s") as running:
        assert await drain(at(tmp_path)) == 0
        # As if that had been long ago.
        running.node.drain._began -= 60
        running.node.drain._drained -= 60
        call = await running.held()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.node._grpc is not None and running.node._grpc._server is None)
        assert not call.done()
        running.go_on.set()
        await call
        await asyncio.wait_for(running.task, 10)


async def test_callers_that_do_not_turn_away_are_told_of(
    backend: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with router(backend, tmp_path, drain_timeout="1s") as running:

        async def insist() -> None:
            while True:
                await running.read()

        insisting = asyncio.create_task(insist())
        await until(lambda: backend.calls["IndexMetadata"] > 5)
        assert await drain(at(tmp_path)) == 1
        insisting.cancel()
        await asyncio.wait({insisting})
        said = capsys.readouterr().err
    assert "came from callers that keep their connections" in said
    assert "set `grpc.max_connection_age`" in said


async def test_gossip_does_not_stretch_a_drain(backend: FakeNode, tmp_path: Path) -> None:
    async with router(backend, tmp_path, drain_timeout="3s") as running:
        # As with `gossip_interval_ms: 60000` and members that are there.
        node = running.node
        node.membership._interval = 60.0
        agent = node.membership._agent
        assert agent is not None
        agent._heard = time.monotonic()
        assert node.membership.farewell == 120.0
        assert await asyncio.wait_for(drain(at(tmp_path)), 20) == 0
        assert node.drain._bounds.linger == 1.5


async def test_sigterm_goes_on_where_a_drain_is(
    backend: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with router(backend, tmp_path) as running:
        call = await running.held()
        draining = asyncio.create_task(drain(at(tmp_path)))
        await until(lambda: running.node.drain.state is DrainState.FINISHING)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.node._grpc is not None and running.node._grpc._server is None)
        assert not call.done()
        running.go_on.set()
        await call
        assert await draining == 0
        await asyncio.wait_for(running.task, 10)
    assert "is drained after" in capsys.readouterr().out


async def test_a_second_sigterm_ends_a_drain_and_the_command_says_so(
    backend: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with router(backend, tmp_path) as running:
        call = await running.held()
        draining = asyncio.create_task(drain(at(tmp_path)))
        await until(lambda: running.node.drain.state is DrainState.FINISHING)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: running.node._grpc is not None and running.node._grpc._server is None)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running.task, 10)
        assert await draining == 1
        await asyncio.wait({call})
        assert call.exception() is not None
    assert "is not drained" in capsys.readouterr().err


async def test_the_command_may_be_left_early(
    backend: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with router(backend, tmp_path) as running:
        await running.held()
        assert await drain(at(tmp_path, timeout=0.1)) == 1
        assert "is not drained after 0.1 s" in capsys.readouterr().err
        assert running.node.drain.state is not DrainState.SERVING


# Who is there, and who is not


async def test_no_node_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        assert await drain(at(place)) == 1
        said = capsys.readouterr().err
        assert f"no node runs with its `data_dir` at {place}: run this on the node's host" in said


async def test_a_killed_node_is_not_there_and_its_socket_goes_with_the_next_start(
    backend: FakeNode,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = tmp_path / "metastore-proxy-router-1-1-abcdef.sock"
    of_another = tmp_path / "metastore-proxy-router-2-1-abcdef.sock"
    # A socket's path has little room: from within the directory its name is all of it.
    monkeypatch.chdir(tmp_path)
    for path in (left, of_another):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    assert await drain(at(tmp_path)) == 1
    assert "no node runs" in capsys.readouterr().err
    async with router(backend, tmp_path):
        await until(lambda: len(sockets_in(tmp_path)) == 2)
        assert left not in sockets_in(tmp_path)
        assert await drain(at(tmp_path)) == 0


async def test_one_of_several_nodes_is_named(
    backend: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = router(backend, tmp_path)
    second = router(backend, tmp_path, "router-2")
    async with first as one, second as other:
        await until(lambda: len(sockets_in(tmp_path)) == 2)
        assert await drain(at(tmp_path)) == 1
        said = capsys.readouterr().err
        assert "say which with --node-id: router-1, router-2" in said
        assert await drain(at(tmp_path, "router-3")) == 1
        assert "only router-1, router-2 (see --node-id)" in capsys.readouterr().err
        assert await drain(at(tmp_path, "router-2")) == 0
        assert one.node.drain.state is DrainState.SERVING
        assert other.node.drain.state is DrainState.DRAINED


async def test_a_data_dir_may_have_a_long_path(backend: FakeNode, tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    async with router(backend, long):
        await until(lambda: sockets_in(long))
        assert sockets_in(long)[0].stat().st_mode & 0o777 == 0o600
        assert await drain(at(long)) == 0
    # Made by the node, and left as it was found.
    assert not long.exists()


async def test_a_node_that_cannot_listen_serves_and_warns(
    backend: FakeNode, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with written() as lines:
        async with router(backend, tmp_path / "file") as running:
            await running.read()
        (line,) = lines.of(
            "`metastore-proxy drain` cannot reach this node: set `data_dir` to a directory that it "
            "can write to"
        )
    assert line["reason"] == "Not a directory"


async def test_a_broken_file_does_not_keep_a_node_from_being_drained(
    backend: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        f"node_id: router-1\ndata_dir: {tmp_path}\nproxy: {{max_lagg: 5}}\n", encoding="utf-8"
    )
    async with router(backend, tmp_path):
        assert await drain(at(None, config=path)) == 0
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="or name the node's directory with --data-dir"):
        await drain(at(None, config=path))
    monkeypatch.setenv("QW_DATA_DIR", str(tmp_path / "elsewhere"))
    assert await drain(at(None)) == 1


# Real processes


@pytest.mark.parametrize("moment", ["at once", "while it opens", "when it is ready"])
async def test_sigterm_during_the_start(backend: FakeNode, tmp_path: Path, moment: str) -> None:
    path = tmp_path / "router.json"
    path.write_text(
        f'{{"version": "0.8", "proxy": {{"primary": ["{backend.address}"]}}}}', encoding="utf-8"
    )
    node = NodeProcess("router-1", Role.ROUTER, tmp_path, {}, config=path)
    node.start()
    if moment == "while it opens":
        # Its first line says that it connects.
        await until(lambda: node.log_path.stat().st_size)
    elif moment == "when it is ready":
        await node.wait_ready()
    status = await node.terminate()
    # Before it has anything to close it is ended by the signal itself.
    assert status in ((0, -signal.SIGTERM) if moment == "at once" else (0,))
    assert "Traceback" not in node.log_path.read_text(encoding="utf-8")
    assert sockets_in(tmp_path) == []
