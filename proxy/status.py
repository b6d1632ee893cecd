"""The subcommand `status`: ask a node who the primary is and who else is there, and show it."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf import json_format

from proxy import commands, errors
from proxy.client.asking import NoAnswerError, ask_node, opened
from proxy.client.channels import Channels
from proxy.config import NodeConfig
from proxy.gossip import keys
from proxy.joining import GossipSource
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.roles import Role
from proxy.routing.targets import join_address, parse_target

# Seconds between two looks with `--watch`.
_PAUSE: Final = 2.0
# Where a node listens by Quickwit's defaults.
_DEFAULT_NODE: Final = "127.0.0.1:7281"
# Where a node that listens everywhere is reached from its own host.
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_CLEAR: Final = "\x1b[2J\x1b[H"

_TITLES: Final = ("node", "role", "state", "lag", "version", "zone", "gRPC", "REST", "gossip")
_ORDER: Final = (Role.METASTORE.value, Role.READ_REPLICA.value, Role.ROUTER.value)
_NAMES: Final = {
    Role.METASTORE.value: ("other metastore", "other metastores"),
    Role.READ_REPLICA.value: ("replica", "replicas"),
    Role.ROUTER.value: ("router", "routers"),
    "": ("other node", "other nodes"),
}


@dataclass(frozen=True, slots=True)
class _Whom:
    """Whom to ask, one after the other until one answers; then those whom gossip finds."""

    nodes: Sequence[str]
    config: NodeConfig | None
    channels: Channels


async def status(options: Namespace) -> int:
    """Show the cluster; status 1 when there is no primary or no node answers."""
    config = None if options.node or options.config is None else commands.load(options)
    async with opened(commands.client_tls(options)) as channels:
        whom = _Whom(_nodes(options.node, config), config, channels)
        if not options.watch:
            return await _show(whom, as_json=options.json)
        while True:
            try:
                await _show(whom, as_json=options.json, clear=sys.stdout.isatty())
            except (errors.MetastoreError, NoAnswerError) as error:
                # What one watches for, rather than a reason to end.
                sys.stdout.write(f"{error}\n")
            sys.stdout.flush()
            await asyncio.sleep(_PAUSE)


def _nodes(given: str | None, config: NodeConfig | None) -> Sequence[str]:
    """Return whom the command line or the configuration names."""
    if given is not None:
        return (commands.address_of("--node", given),)
    if config is None:
        return (_DEFAULT_NODE,)
    host = config.advertise_address or config.listen_address
    own = join_address(_ANY.get(host, host), config.grpc_listen_port)
    targets = (*config.proxy.primary, *config.proxy.replicas)
    return tuple(dict.fromkeys([own, *(parse_target(target).address for target in targets)]))


async def _members(config: NodeConfig) -> Sequence[str]:
    """Return the nodes of ours that gossip knows."""
    source = GossipSource.from_config(config)
    await source.open(lambda _members: None)
    try:
        view = source.view
        known = () if view is None else view.members
        return [one.grpc_address for one in known if one.grpc_address and keys.ROLE in one.keys]
    finally:
        await source.close()


async def _show(whom: _Whom, *, as_json: bool, clear: bool = False) -> int:
    answer = await _ask(whom)
    if as_json:
        text = json_format.MessageToJson(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    else:
        text = render(answer)
    sys.stdout.write(f"{_CLEAR if clear else ''}{text}\n")
    return 0


async def _ask(whom: _Whom) -> pb.GetClusterInfoResponse:
    """Return the first answer; where all are silent, that of one whom gossip finds by the seeds."""
    nodes, config = whom.nodes, whom.config
    try:
        return await _first(nodes, whom.channels)
    except NoAnswerError:
        if config is None or not config.peer_seeds:
            raise
        found = [one for one in await _members(config) if one not in nodes]
        return await _first((*nodes, *found), whom.channels)


async def _first(nodes: Sequence[str], channels: Channels) -> pb.GetClusterInfoResponse:
    """Return the first answer. The error is that of the first node that answered with one."""
    refusal: errors.MetastoreError | None = None
    silent: list[str] = []
    for node in nodes:
        try:
            return await ask_node(
                *(node, "GetClusterInfo", pb.GetClusterInfoRequest(), pb.GetClusterInfoResponse),
                channels=channels,
            )
        except NoAnswerError as error:
            silent.append(str(error))
        except errors.MetastoreError as error:
            refusal = refusal or error
    raise refusal or NoAnswerError(f"no node answers: {'; '.join(silent)}")


def render(answer: pb.GetClusterInfoResponse) -> str:
    """Return an answer as a table, with what is wrong below it in words."""
    members = sorted(answer.members, key=lambda one: (_rank(one), one.node_id))
    rows: list[tuple[str, ...]] = [("  " + _TITLES[0], *_TITLES[1:])]
    rows += [_row(one, "* ") for one in answer.primaries]
    rows += [_row(one, "  ") for one in members]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    everyone = [*answer.primaries, *members]
    wrong = [f"  {_name(one)}: {one.problem}" for one in everyone if one.problem]
    heading = f"cluster {answer.cluster_id}, as {answer.answered_by} {_how(answer)}"
    lines = [heading, _summary(answer), "", *table]
    return "\n".join([*lines, "", "what is wrong:", *wrong] if wrong else lines)


def _how(answer: pb.GetClusterInfoResponse) -> str:
    if answer.source == "static":
        return "knows it without gossip"
    return "knows it by gossip"


def _summary(answer: pb.GetClusterInfoResponse) -> str:
    named = ", ".join(
        f"{one.node_id} at {one.grpc_address}" if one.node_id else one.grpc_address
        for one in answer.primaries
    )
    parts = [f"primary: {named}"]
    for role in (*_ORDER, ""):
        group = [one for one in answer.members if _kind(one) == role]
        if group:
            ready = sum(one.ready for one in group)
            name = _NAMES[role][0 if len(group) == 1 else 1]
            parts.append(
                f"{len(group)} {name}" + (f" ({ready} ready)" if ready < len(group) else "")
            )
    return "; ".join(parts)


def _kind(member: pb.ClusterMember) -> str:
    if member.role in _ORDER:
        return member.role
    return next((role for role in _ORDER if role in member.services), "")


def _rank(member: pb.ClusterMember) -> int:
    kind = _kind(member)
    return _ORDER.index(kind) if kind else len(_ORDER)


def _name(member: pb.ClusterMember) -> str:
    return member.node_id or member.grpc_address


def _row(member: pb.ClusterMember, mark: str) -> tuple[str, ...]:
    return (
        mark + (member.node_id or "-"),
        member.role or "-",
        _state(member),
        _lag(member),
        member.version or "-",
        member.availability_zone or "-",
        member.grpc_address or "-",
        member.rest_address or "-",
        member.gossip_address or "-",
    )


def _state(member: pb.ClusterMember) -> str:
    if member.HasField("live") and not member.live:
        return "dead"
    if not member.HasField("ready"):
        return "unknown"
    return "ready" if member.ready else "not ready"


def _lag(member: pb.ClusterMember) -> str:
    if member.role != Role.READ_REPLICA.value or not member.live:
        return "-"
    return f"<= {member.lag_at_most:g} s" if member.HasField("lag_at_most") else "unknown"
