"""Who the primary is, as a node knows it: by its membership, else by its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from proxy.client import ClientTls
from proxy.client.asking import ask_target, opened
from proxy.client.channels import Channels
from proxy.client.raw import RawRoutingClient
from proxy.config import NodeConfig
from proxy.gossip import keys
from proxy.gossip.view import ClusterView
from proxy.membership import Membership
from proxy.proto.metastore_proxy.v1 import proxy_pb2 as pb
from proxy.roles import Role
from proxy.routing.members import Backend
from proxy.routing.targets import Target, parse_target
from proxy.server.cluster_info import Answers, Asker, ClusterInfo, NamedPrimary
from proxy.tls import TlsError
from proxy.unanswered import NoAnswerError

_QUESTION: Final = pb.GetClusterInfoRequest(own_only=True)


def cluster_info(
    config: NodeConfig,
    membership: Membership,
    client: RawRoutingClient | None,
    primary: Callable[[], Sequence[str]],
) -> ClusterInfo:
    """Return what answers `GetClusterInfo` at a node.

    `client` is what the node passes calls on with, None when it does not; `primary` is what
    `proxy.primary` names at the moment.
    """

    def view() -> ClusterView | None:
        return membership.view if membership.is_on else None

    is_one = config.role is Role.METASTORE
    return ClusterInfo(
        cluster_id=config.cluster_id,
        node_id=config.node_id,
        is_on=membership.is_on,
        view=view,
        itself=(lambda: _itself(membership)) if is_one else None,
        named=tuple if is_one else _named(primary, client),
        ask=_asker(config, client),
    )


def _asker(config: NodeConfig, client: RawRoutingClient | None) -> Asker:
    section = config.grpc.tls
    tls = None if section is None else ClientTls.from_config(section)

    async def by(
        channels: Channels, target: Target, timeout: float, authority: str | None = None
    ) -> Answers:
        return await ask_target(
            *(target, "GetClusterInfo", _QUESTION, pb.GetClusterInfoResponse),
            timeout=timeout,
            channels=channels,
            authority=authority,
        )

    async def ask(target: Target, /, *, timeout: float) -> Answers:
        if client is not None and client.channels is not None:
            return await by(client.channels, target, timeout, client.authority(target.address))
        try:
            async with opened(tls) as channels:
                return await by(channels, target, timeout)
        except TlsError as error:
            return {str(target): NoAnswerError(str(error))}

    return ask


def _named(
    primary: Callable[[], Sequence[str]], client: RawRoutingClient | None
) -> Callable[[], Sequence[NamedPrimary]]:
    def named() -> Sequence[NamedPrimary]:
        return [NamedPrimary(parse_target(target)) for target in primary()]

    if client is None:
        return named
    # A name may not have an address yet.
    return lambda: [_known(one) for one in client.backends().primaries] or named()


def _known(primary: Backend) -> NamedPrimary:
    problem = ""
    if primary.is_standby:
        problem = "its database is in recovery"
    elif primary.facts.is_foreign:
        problem = "it serves another cluster's database"
    return NamedPrimary(parse_target(primary.address), problem)


def _itself(membership: Membership) -> pb.ClusterMember | None:
    view, endpoints = membership.view, membership.endpoints
    if view is None or endpoints is None:
        return None
    me = view.me
    return pb.ClusterMember(
        node_id=me.node_id,
        role=Role.METASTORE.value,
        ready=me.is_ready,
        grpc_address=endpoints.grpc,
        rest_address=endpoints.rest,
        availability_zone=me.availability_zone,
        version=me.keys.get(keys.VERSION),
        problem="" if me.is_ready else "it says that it is not ready",
    )
