"""`metastore-proxy status` against nodes, and when there are none."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy import errors
from proxy.commands import call, explain
from proxy.commands.refusal import UsageError
from proxy.commands.status import run as status
from proxy.config import ConfigError
from proxy.demo.postgres_host import free_port
from proxy.node import Node
from proxy.roles import Role
from proxy.unanswered import NoAnswerError
from tests.support.fake_node import FakeNode
from tests.support.members import member_config, seed_of
from tests.support.nodes import address, running
from tests.support.postgres import Scratch
from tests.support.waiting import until


def options(**given: Any) -> Namespace:
    return Namespace(**{"node": None, "config": None, "json": False, "watch": False, **given})


@pytest.fixture
async def node(migrated_database: Scratch) -> AsyncIterator[Node]:
    config = member_config(Role.METASTORE, migrated_database.primary_uri, "m")
    async with running(config) as node:
        yield node


async def test_the_table_names_the_primary(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert await status(options(node=address(node))) == 0
    shown = capsys.readouterr().out
    assert f"primary: m at {address(node)}\n" in shown
    assert shown.startswith("cluster cluster-a, as m knows it by gossip\n")


async def test_as_json_every_list_is_there(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert await status(options(node=address(node), json=True)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["primaries"][0]["grpc_address"] == address(node)
    assert answer["members"] == []


async def test_with_a_config_its_node_is_asked_and_then_those_that_it_names(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "router.json"
    document: dict[str, Any] = {
        "version": "0.8",
        "enabled_services": ["metastore_router"],
        "listen_address": "0.0.0.0",
        "rest": {"listen_port": free_port()},
        "grpc_listen_port": free_port(),
        "proxy": {"primary": [f"127.0.0.1:{free_port()}"], "replicas": [address(node)]},
    }
    path.write_text(json.dumps(document))
    assert await status(options(config=path)) == 0
    assert f"primary: m at {address(node)}\n" in capsys.readouterr().out


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
async def test_without_a_config_the_variables_tell_the_node(
    node: Node, host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("QW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QW_GRPC_LISTEN_PORT", address(node).rpartition(":")[2])
    if host:
        monkeypatch.setenv("QW_LISTEN_ADDRESS", host)
    assert await status(options()) == 0
    assert f"primary: m at {address(node)}\n" in capsys.readouterr().out


async def test_a_wrong_variable_is_said_unless_a_node_is_named(
    node: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QW_REST_LISTEN_PORT", "none")
    with pytest.raises(ConfigError, match="QW_REST_LISTEN_PORT"):
        await status(options())
    assert await status(options(node=address(node))) == 0
    assert f"primary: m at {address(node)}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "role",
    [
        pytest.param({"enabled_services": ["metastore_router"]}, id="a router's"),
        # As where it is `--service` that tells the role.
        pytest.param({}, id="shared by all"),
    ],
)
async def test_with_seeds_a_node_is_found_by_gossip(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str], role: dict[str, Any]
) -> None:
    path = tmp_path / "anybody.json"
    document: dict[str, Any] = {
        "version": "0.8",
        **role,
        "cluster_id": "cluster-a",
        "peer_seeds": list(seed_of(node)),
        "gossip_interval_ms": 50,
        "grpc_listen_port": free_port(),
        "proxy": {"discovery": "gossip"},
    }
    path.write_text(json.dumps(document))
    assert await status(options(config=path)) == 0
    assert f"primary: m at {address(node)}\n" in capsys.readouterr().out


async def test_calls_and_explanations_go_by_gossip(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "client.yaml"
    path.write_text(
        "version: '0.8'\nenabled_services: [metastore_router]\ncluster_id: cluster-a\n"
        f"peer_seeds: ['{seed_of(node)[0]}']\ngossip_interval_ms: 50\n"
        "proxy: {discovery: gossip}\n"
    )
    given = {"config": path, "primary": [], "replica": [], "rpc": "ListIndexTemplates"}
    asked = Namespace(**given, request="{}", allow_writes=False, timeout=None)
    assert await call.run(asked) == 0
    assert "served by m (metastore), route primary" in capsys.readouterr().err
    asked = Namespace(
        **given,
        router=None,
        min_lsn="",
        max_lag=None,
        consistency="",
        allow_replica=False,
        json=False,
    )
    assert await explain.run(asked) == 0
    assert f"* {address(node)}" in capsys.readouterr().out


async def test_a_watch_goes_on_also_while_there_is_no_primary(
    node: Node, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.commands.status._PAUSE", 0.02)
    shown = ""

    def says(text: str) -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return text in shown

    watching = asyncio.create_task(status(options(node=address(node), watch=True)))
    try:
        await until(lambda: says("primary: m at"))
        node.readiness.fail("database_connected", "a test says so")
        await until(lambda: says("no primary can be named (`m`: it says that it is not ready)"))
        shown = ""
        node.readiness.hold("database_connected")
        await until(lambda: says("primary: m at"))
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def test_the_reason_of_a_node_goes_before_the_silence_of_others(
    node: Node, tmp_path: Path
) -> None:
    node.readiness.fail("database_connected", "a test says so")
    path = tmp_path / "router.yaml"
    path.write_text(
        f"version: '0.8'\nenabled_services: [metastore_router]\ngrpc_listen_port: {free_port()}\n"
        f"proxy: {{primary: ['{address(node)}', '127.0.0.1:{free_port()}']}}\n"
    )
    with pytest.raises(errors.Unavailable, match="it says that it is not ready"):
        await status(options(config=path))


async def test_a_node_of_another_kind_is_said_to_be_one() -> None:
    async with FakeNode("quickwit-1") as other:
        with pytest.raises(NoAnswerError, match="no node of this project's, or an older one"):
            await status(options(node=other.address))


@pytest.mark.parametrize("node", ["nonsense", "host:port", "host:0"])
async def test_an_address_that_is_none_is_wrong_usage(node: str) -> None:
    with pytest.raises(UsageError, match="`--node`"):
        await status(options(node=node))


async def test_as_a_process_it_fails_in_one_line() -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("QW_")}
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", "status", "--node", "127.0.0.1:1"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "no node answers: 127.0.0.1:1" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
