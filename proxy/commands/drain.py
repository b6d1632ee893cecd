"""The subcommand `drain`: have a node of this host turn not ready and finish its calls."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from argparse import Namespace
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.commands.refusal import UsageError
from proxy.config import ConfigError
from proxy.config.place import node_place
from proxy.server.control_protocol import DRAIN, DrainState, address_of, sockets_in

# Seconds that a node has to answer at all, and beyond the bound that it tells itself.
_ANSWER: Final = 5.0
_SLACK: Final = 5.0


class DrainError(Exception):
    """The node is not drained; says what to do."""


@dataclass
class _Node:
    """A node's process that answered, before it was told anything."""

    node_id: str
    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def name(self) -> str:
        return f"{self.node_id} (process {self.pid})"

    async def line(self) -> dict[str, Any] | None:
        """Return what the node says next; None when it has ended."""
        raw = await self.reader.readline()
        found: dict[str, Any] | None = json.loads(raw) if raw.endswith(b"\n") else None
        return found


async def run(options: Namespace) -> int:
    """Drain a node and wait for it; status 1 when it is not drained in time, or none is there."""
    data_dir, node_id = _place(options)
    async with AsyncExitStack() as stack:
        try:
            nodes = await _find(data_dir, node_id, stack)
            await asyncio.gather(*(_drain(node, options.timeout) for node in nodes))
        except DrainError as error:
            sys.stderr.write(f"metastore-proxy: {error}\n")
            return 1
    return 0


def _place(options: Namespace) -> tuple[Path, str | None]:
    if options.data_dir is not None:
        return Path(options.data_dir).absolute(), options.node_id
    try:
        data_dir, node_id = node_place(options.config, os.environ)
    except ConfigError as error:
        raise UsageError(f"{error}; or name the node's directory with --data-dir") from error
    return Path(data_dir).absolute(), options.node_id or node_id


async def _find(data_dir: Path, node_id: str | None, stack: AsyncExitStack) -> list[_Node]:
    """Return the processes of the node that is meant. `DrainError` when it is not clear which."""
    try:
        paths = sockets_in(data_dir)
        found = [one for path in paths if (one := await _visit(path, stack)) is not None]
    except PermissionError as error:
        raise DrainError(
            f"the node in {data_dir} belongs to another user: run this as the user that "
            "the node runs as, or as root"
        ) from error
    names = sorted({one.node_id for one in found})
    where = f"no node runs with its `data_dir` at {data_dir}"
    hint = (
        "run this on the node's host (in its container), from the directory that it was started "
        "in, with its --config or QW_DATA_DIR"
    )
    if node_id is not None:
        found = [one for one in found if one.node_id == node_id]
        if not found:
            others = f"only {', '.join(names)} (see --node-id); " if names else ""
            raise DrainError(f"{where} and the `node_id` {node_id}: {others}{hint}")
    elif not found:
        raise DrainError(f"{where}: {hint}")
    elif len(names) > 1:
        raise DrainError(
            f"several nodes have their `data_dir` at {data_dir}: say which with "
            f"--node-id: {', '.join(names)}"
        )
    return found


async def _visit(path: Path, stack: AsyncExitStack) -> _Node | None:
    """Connect to a node's socket; None when nobody listens there any more."""
    try:
        async with asyncio.timeout(_ANSWER):
            with address_of(path) as address:
                reader, writer = await asyncio.open_unix_connection(address)
            stack.callback(writer.close)
            raw = await reader.readline()
    except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError):
        return None
    except TimeoutError as error:
        raise DrainError(
            f"the process behind {path} does not answer within {_ANSWER:g} s: look at its log, or "
            "end it with SIGTERM"
        ) from error
    if not raw.endswith(b"\n"):
        # It is ending, or takes us for a stranger.
        return None
    hello = json.loads(raw)
    return _Node(hello["node_id"], hello["pid"], reader, writer)


async def _drain(node: _Node, timeout: float | None) -> None:
    node.writer.write(DRAIN)
    last: dict[str, Any] = {}
    try:
        async with asyncio.timeout(timeout):
            while (line := await _next(node, last)) is not None:
                _show(node, line, last)
                last = line
    except (TimeoutError, ConnectionError) as error:
        raise DrainError(_unfinished(node, last, timeout)) from error
    state = last.get("state")
    if state == DrainState.DRAINED.value:
        return
    if state == DrainState.OVERDUE.value:
        raise DrainError(_unfinished(node, last, last["limit"]))
    raise DrainError(f"{node.name} ended before it was drained: look at its log")


async def _next(node: _Node, last: dict[str, Any]) -> dict[str, Any] | None:
    limit = last.get("limit", 0.0) - last.get("seconds", 0.0)
    async with asyncio.timeout(max(0.0, limit) + _SLACK):
        return await node.line()


def _show(node: _Node, line: dict[str, Any], last: dict[str, Any]) -> None:
    state, seconds, in_flight = line["state"], line["seconds"], line["in_flight"]
    calls = "1 call" if in_flight == 1 else f"{in_flight} calls"
    if state == DrainState.DRAINED.value:
        text = f"is drained after {seconds:.1f} s; it serves on until SIGTERM ends it"
        if not last:
            text = "is drained already; it serves on until SIGTERM ends it"
    elif state == DrainState.LEAVING.value:
        text = f"is not ready any more; others turn away, {calls} in flight"
    elif state == DrainState.FINISHING.value:
        text = f"waits for {calls} in flight, {seconds:.0f} s of at most {line['limit']:.0f} s"
        if line["late"]:
            text += f"; {line['late']} calls came from callers that do not ask for its health"
    else:
        return
    sys.stdout.write(f"{node.name} {text}\n")
    sys.stdout.flush()


def _unfinished(node: _Node, last: dict[str, Any], bound: float | None) -> str:
    after = f"after {bound:g} s" if bound else "in time"
    text = f"{node.name} is not drained {after}: {last.get('in_flight', '?')} calls are in flight"
    if last.get("late"):
        text += (
            f", and {last['late']} came from callers that keep their connections and do not ask "
            "for its health: set `grpc.max_connection_age`, well below `proxy.drain_timeout`"
        )
    else:
        text += ": raise `proxy.drain_timeout` if they should be waited for"
    return f"{text}; SIGTERM ends the node and what is left"
