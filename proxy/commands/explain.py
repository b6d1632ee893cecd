"""The subcommand `explain`: ask a router, or connect to the nodes, and show the answer."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from contextlib import suppress
from typing import Final

from google.protobuf import json_format

from proxy import errors
from proxy.client import RoutingClient
from proxy.client.asking import ask_node, opened
from proxy.commands import calling
from proxy.commands.refusal import UsageError
from proxy.config.durations import parse_duration
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.routing.members import BackendRole
from proxy.server.explaining import explain_route

_SETTLE: Final = 1.5
_POLL: Final = 0.05


async def run(options: Namespace) -> int:
    """Explain where a call would go; status 1 when nothing could take it."""
    rpc = calling.find_rpc(options.rpc)
    request = pb.ExplainRouteRequest(
        rpc=rpc.name,
        min_lsn=options.min_lsn,
        consistency=options.consistency,
        allow_replica=options.allow_replica,
    )
    if options.max_lag is not None:
        try:
            request.max_lag = parse_duration(options.max_lag)
        except ValueError as error:
            raise UsageError(f"`--max-lag` {error}") from error
    if options.router is not None:
        router = calling.address_of("--router", options.router)
        async with opened(calling.client_tls(calling.given_config(options))) as channels:
            answer = await ask_node(
                *(router, "ExplainRoute", request, pb.ExplainRouteResponse),
                channels=channels,
            )
    else:
        answer = await _find_out(options, request)
    if options.json:
        text = json_format.MessageToJson(answer, preserving_proto_field_name=True)
    else:
        text = _table(answer)
    sys.stdout.write(f"{text}\n")
    # A node that serves the call itself names no address.
    return 0 if answer.route else 1


async def _find_out(options: Namespace, request: pb.ExplainRouteRequest) -> pb.ExplainRouteResponse:
    async with calling.client_of(options, allow_writes=False) as client:
        with suppress(errors.Unavailable):
            await client.wait_ready(timeout=_SETTLE)
        await calling.settle(client)
        await _know_lags(client)
        return explain_route(client, request)


async def _know_lags(client: RoutingClient) -> None:
    """Wait a little until the lag of each replica that serves is known."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SETTLE
    while loop.time() < until and client.backends().serving_primaries:
        if all(client.lag(one.address) is not None for one in client.backends().serving_replicas):
            return
        await asyncio.sleep(_POLL)


def _table(answer: pb.ExplainRouteResponse) -> str:
    rows = [("backend", "node", "role", "state", "lag", "in flight", "latency", "verdict")]
    for one in answer.verdicts:
        taken = "yes" if one.eligible else "no"
        rows.append(
            (
                ("* " if one.address == answer.chosen else "  ") + one.address,
                one.node_id or "-",
                one.role,
                one.state,
                _lag(one),
                str(one.in_flight),
                f"{one.latency * 1000:.1f} ms" if one.latency else "-",
                f"{taken}: {one.reason}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([answer.explanation, "", *lines])


def _lag(verdict: pb.BackendVerdict) -> str:
    if verdict.role == BackendRole.PRIMARY.value:
        return "-"
    return f"{verdict.lag:.3f} s" if verdict.HasField("lag") else "unknown"
