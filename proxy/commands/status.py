"""The subcommand `status`: ask a node who the primary is, who else is there, and what is wrong.

Two questions to one node: `GetClusterInfo`, which fails where there is no primary, and `GetStatus`,
which tells then as well what the node's status page shows.
"""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import json_format

from proxy import errors
from proxy.client.asking import ask_node, opened
from proxy.client.channels import Channels
from proxy.commands import calling
from proxy.commands.node_config import load_as_caller
from proxy.config import NodeConfig
from proxy.config.place import host_of
from proxy.gossip import keys
from proxy.joining import GossipSource
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.proto.metastore_proxy.v1 import status_pb2
from proxy.roles import Role
from proxy.routing.targets import join_address, parse_target
from proxy.server.status import text
from proxy.server.status.cleaning import MOST_TEXT, clean
from proxy.server.status.document import as_json as status_as_json
from proxy.unanswered import NoAnswerError

# Seconds between two looks with `--watch`.
_PAUSE: Final = 2.0
# Of a terminal: clear it; go to its top; clear the rest of a line, and of all below.
_CLEAR: Final = "\x1b[2J"
_TOP: Final = "\x1b[H"
_TO_END: Final = "\x1b[K"
_BELOW: Final = "\x1b[J"
# Seconds for a node that has just answered another question.
_PATIENCE: Final = 3.0

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
    """Whom to ask, one after the other until one answers; then those whom gossip finds.

    `config` is None where a node was named: then it is that one or none.
    """

    nodes: Sequence[str]
    config: NodeConfig | None
    channels: Channels


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found. Without an answer there is an error."""

    node: str = ""
    answer: pb.GetClusterInfoResponse | None = None
    status: status_pb2.GetStatusResponse | None = None
    error: errors.MetastoreError | NoAnswerError | None = None


async def run(options: Namespace) -> int:
    """Show the cluster; status 1 when there is no primary or no node answers."""
    if options.node is not None:
        nodes: Sequence[str] = (calling.address_of("--node", options.node),)
        config, seeking = calling.given_config(options), None
    else:
        # Without a file too: a node may be configured by variables alone.
        config = seeking = load_as_caller(options)
        nodes = _nodes(config)
    async with opened(calling.client_tls(config)) as channels:
        whom = _Whom(nodes, seeking, channels)
        if options.watch:
            await _watch(whom, as_json=options.json)
        seen = await _look(whom)
        if shown := _shown(seen, as_json=options.json):
            sys.stdout.write(f"{shown}\n")
        if seen.error is not None:
            raise seen.error
        return 0


async def _watch(whom: _Whom, *, as_json: bool) -> None:
    """Show what there is again and again; a terminal is written over, anything else added to."""
    is_terminal = sys.stdout.isatty() and not as_json
    if is_terminal:
        sys.stdout.write(_CLEAR)
    while True:
        seen = await _look(whom)
        # An error is what one watches for, rather than a reason to end.
        error = "" if seen.error is None else str(seen.error)
        if as_json:
            parts = [_shown(seen, as_json=True) or json.dumps({"error": error})]
        else:
            parts = [_shown(seen, as_json=False), error]
        lines = "\n".join(filter(None, parts)).splitlines()
        if is_terminal:
            drawn = "".join(f"{line}{_TO_END}\n" for line in lines)
            sys.stdout.write(f"{_TOP}{drawn}{_BELOW}")
        else:
            sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()
        await asyncio.sleep(_PAUSE)


def _nodes(config: NodeConfig) -> Sequence[str]:
    """Return whom the configuration names: its own node, and then those that this calls."""
    host = config.advertise_address or config.listen_address
    own = join_address(host_of(host), config.grpc_listen_port)
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


async def _look(whom: _Whom) -> _Seen:
    """Ask once; where all are silent, those too whom gossip finds by the seeds."""
    seen = await _first(whom.nodes, whom.channels)
    config = whom.config
    if isinstance(seen.error, NoAnswerError) and config is not None and config.peer_seeds:
        found = [one for one in await _members(config) if one not in whom.nodes]
        seen = await _first((*whom.nodes, *found), whom.channels)
    return seen


async def _first(nodes: Sequence[str], channels: Channels) -> _Seen:
    """Return the first answer. The error is that of the first node that answered with one."""
    refused: _Seen | None = None
    silent: list[str] = []
    for node in nodes:
        try:
            answer = await ask_node(
                *(node, "GetClusterInfo", pb.GetClusterInfoRequest(), pb.GetClusterInfoResponse),
                channels=channels,
            )
        except NoAnswerError as error:
            silent.append(str(error))
        except errors.MetastoreError as error:
            refused = refused or _Seen(node, error=error)
        else:
            return _Seen(node, answer, await _status(node, channels))
    if refused is not None:
        return _Seen(refused.node, None, await _status(refused.node, channels), refused.error)
    return _Seen(error=NoAnswerError(f"no node answers: {'; '.join(silent)}"))


async def _status(node: str, channels: Channels) -> status_pb2.GetStatusResponse | None:
    """Return what a node shows; None of an older one, which does not know the question."""
    try:
        return await ask_node(
            *(node, "GetStatus", status_pb2.GetStatusRequest(), status_pb2.GetStatusResponse),
            timeout=_PATIENCE,
            channels=channels,
        )
    except (NoAnswerError, errors.MetastoreError):
        return None


def _shown(seen: _Seen, *, as_json: bool) -> str:
    if seen.answer is None and seen.status is None:
        return ""
    if as_json:
        document: dict[str, Any] = {"primaries": [], "members": []}
        if seen.answer is not None:
            document = json_format.MessageToDict(
                seen.answer,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
        if seen.error is not None:
            document["error"] = str(seen.error)
        document["status"] = None if seen.status is None else status_as_json(seen.status)
        return json.dumps(document, indent=2)
    if seen.answer is not None:
        return render(seen.answer, seen.status)
    return "" if seen.status is None else text.render(seen.status)


def render(
    answer: pb.GetClusterInfoResponse, status: status_pb2.GetStatusResponse | None = None
) -> str:
    """Return an answer as a table, with what is wrong in words.

    With `status` what it says of that, first, and its figures last; else what the answer says.
    """
    members = sorted(answer.members, key=lambda one: (_rank(one), one.node_id))
    rows: list[tuple[str, ...]] = [("  " + _TITLES[0], *_TITLES[1:])]
    rows += [_row(one, "* ") for one in answer.primaries]
    rows += [_row(one, "  ") for one in members]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    heading = f"cluster {clean(answer.cluster_id)}, as {clean(answer.answered_by)} {_how(answer)}"
    lines = [heading, _summary(answer), ""]
    if status is not None:
        said = [text.head(status), *text.wrong(status), ""]
        return "\n".join([*lines, *said, *table, "", *text.figures(status)])
    everyone = [*answer.primaries, *members]
    wrong = [f"  {_name(one)}: {clean(one.problem, MOST_TEXT)}" for one in everyone if one.problem]
    return "\n".join([*lines, *table, *(["", "what is wrong:", *wrong] if wrong else [])])


def _how(answer: pb.GetClusterInfoResponse) -> str:
    if answer.source == "static":
        return "knows it without gossip"
    return "knows it by gossip"


def _summary(answer: pb.GetClusterInfoResponse) -> str:
    named = ", ".join(
        f"{clean(one.node_id)} at {one.grpc_address}" if one.node_id else one.grpc_address
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
    return clean(member.node_id) or member.grpc_address


def _row(member: pb.ClusterMember, mark: str) -> tuple[str, ...]:
    return (
        mark + (clean(member.node_id) or "-"),
        clean(member.role) or "-",
        _state(member),
        _lag(member),
        clean(member.version) or "-",
        clean(member.availability_zone) or "-",
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
