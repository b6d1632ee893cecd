"""The board: what it shows, that it stays small, and what it never shows."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from proxy.config import NodeConfig, Worker, load_config
from proxy.errors import Code
from proxy.roles import Role
from proxy.routing.members import BackendRole
from proxy.server.status.board import StatusBoard
from tests.support.status_boards import Script
from tests.support.views import ours
from tests.support.waiting import until
from tests.unit.server.status.test_nodes import one

MARKER = "marker-passw0rd"


def shown(script: Script) -> Any:
    return json.loads(script.board.json())


def test_a_lag_grows_sample_by_sample() -> None:
    script = Script()
    for second in range(4):
        lag = None if second == 1 else 4.0 * second
        script.backends = (
            one("a:1", BackendRole.PRIMARY),
            one("b:1", BackendRole.REPLICA, "too_old" if second == 3 else "eligible", lag=lag),
        )
        script.look()
    (replica,) = (node for node in shown(script)["nodes"] if node["kind"] == "replica")
    assert replica["lag_history"] == [0.0, None, 8.0, 12.0]
    assert replica["lag"] == 12.0
    assert [one["text"] for one in shown(script)["findings"]] == [
        "no replica is fresh enough: all reads go to the primary (fallback)",
        "b:1 replays 12 s behind; bound 10 s",
    ]
    assert {one["since"] for one in shown(script)["findings"]} == {script.now}
    script.look()
    assert {one["since"] for one in shown(script)["findings"]} == {script.now - 1.0}


def test_a_worker_that_ended_is_told_but_not_of_a_node_that_ends() -> None:
    script = Script()
    words = "1 of 2 workers serve; worker 2: it was ended by SIGKILL"
    board = StatusBoard(replace(script.sources, workers_trouble=lambda: words))
    told = {one.id: (one.severity, one.text) for one in board.look().findings}
    assert told["workers"] == ("warning", words)
    script.readiness.drain()
    assert "workers" not in {one.id for one in board.look().findings}


def test_limits_of_one_worker_are_not_taken_for_those_of_the_node() -> None:
    script = Script(NodeConfig(role=Role.ROUTER, node_id="r", worker=Worker(1, 3, 0, "run")))
    first, _ = script.board.look().config.split("\n", 1)
    assert first == "# limits are the part of one of 3 workers"


def test_calls_per_second_by_route_and_backend() -> None:
    script = Script()
    script.backends = (one("a:1", BackendRole.PRIMARY), one("b:1", BackendRole.REPLICA, lag=0.1))
    script.look()
    for _ in range(3):
        for code in (Code.OK, Code.NOT_FOUND, Code.UNAVAILABLE):
            script.tally.routed("replica", code)
            script.tally.answered("b:1", code)
        script.look()
    status = shown(script)
    rates = {
        one["route"]: (one["per_second"], one["failed_per_second"]) for one in status["routes"]
    }
    assert rates == {
        "replica": (3.0, 1.0),
        "primary": (0.0, 0.0),
        "fallback": (0.0, 0.0),
        "stale": (0.0, 0.0),
    }
    assert [node["calls_per_second"] for node in status["nodes"]] == [0.0, 3.0]
    assert status["routes"][0]["history"] == [3.0, 3.0, 3.0]
    assert status["protection"]["fallback_limit"] == 32


def test_what_was_seen_is_written_once_however_many_ask() -> None:
    script = Script()
    script.look()
    assert script.board.json() is script.board.json()
    assert script.board.status() is script.board.status()
    before = script.board.json()
    script.look()
    assert script.board.json() is not before


def test_no_text_has_a_password() -> None:
    environ = {"QW_METASTORE_URI": f"postgresql://user:{MARKER}@db:5432/quickwit"}
    script = Script(load_config(None, environ=environ, services=["metastore"]))
    script.alarms = (f"something about postgresql://user:{MARKER}@db",)
    script.readiness.fail("backend_serves", f"cannot log in with {MARKER}")
    script.backends = (
        replace(
            (found := one("a:1", BackendRole.PRIMARY, "serving")),
            backend=replace(found.backend, trouble=f"trouble with {MARKER}"),
        ),
    )
    script.look()
    everything = script.board.json().decode()
    assert MARKER not in everything
    assert everything.count("***redacted***") >= 4
    assert "postgresql://user:***redacted***@db:5432/quickwit" in shown(script)["config"]


def test_a_new_configuration_is_shown() -> None:
    script = Script()
    script.look()
    assert 'max_lag: "10s"' in shown(script)["config"]
    script.config = replace(script.config, proxy=replace(script.config.proxy, max_lag=3.0))
    script.look()
    assert 'max_lag: "3s"' in shown(script)["config"]
    assert shown(script)["max_lag"] == 3.0


def test_members_are_counted_by_state() -> None:
    script = Script()
    script.show(
        ours("router-1", "metastore_router", is_self=True),
        ours("replica-1", "metastore_read_replica", is_live=False),
    )
    script.look()
    assert shown(script)["members"] == {"live": 1, "ready": 1, "dead": 1, "zombie": 0}


async def test_it_looks_by_itself_and_survives_what_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script()
    looks: list[float] = []

    def broken() -> NodeConfig:
        looks.append(script.now)
        if len(looks) == 2:
            raise ValueError("a defect")
        return script.config

    board = StatusBoard(replace(script.sources, config=broken), interval=0.01)
    with caplog.at_level(logging.ERROR):
        board.open()
        board.open()
        await until(lambda: len(looks) >= 4)
    await board.close()
    await board.close()
    seen = len(looks)
    await asyncio.sleep(0.03)
    assert len(looks) == seen
    assert caplog.messages == ["the status could not be looked at"]
