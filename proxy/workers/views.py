"""The cluster as the first worker sees it, as JSON values for the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

from proxy.gossip.identity import MemberId
from proxy.gossip.messages import KeyRecord
from proxy.gossip.state import MemberRecord
from proxy.gossip.view import ClusterView, MemberView
from proxy.membership import Endpoints


def encode_view(view: ClusterView, endpoints: Endpoints | None) -> dict[str, Any]:
    """Return a view, and where others reach the node, as JSON values."""
    return {
        "cluster_id": view.cluster_id,
        "self_id": _encode_id(view.self_id),
        "members": [_encode_member(member) for member in view.members],
        "duplicates": list(view.duplicates),
        "endpoints": None if endpoints is None else asdict(endpoints),
    }


def decode_view(told: dict[str, Any]) -> tuple[ClusterView, Endpoints | None]:
    """Return what `encode_view` was given."""
    endpoints = told["endpoints"]
    view = ClusterView(
        told["cluster_id"],
        _decode_id(told["self_id"]),
        tuple(_decode_member(member) for member in told["members"]),
        tuple(told["duplicates"]),
    )
    return view, None if endpoints is None else Endpoints(**endpoints)


def encode_records(records: Iterable[MemberRecord]) -> list[Any]:
    """Return the state of all members as JSON values."""
    return [
        [_encode_id(one.member_id), one.records, one.max_version, one.last_gc_version]
        for one in records
    ]


def decode_records(told: Iterable[Any]) -> list[MemberRecord]:
    """Return what `encode_records` was given."""
    return [
        MemberRecord(
            _decode_id(member_id),
            tuple(KeyRecord(*record) for record in records),
            max_version,
            last_gc_version,
        )
        for member_id, records, max_version, last_gc_version in told
    ]


def _encode_id(one: MemberId) -> list[Any]:
    return [one.node_id, one.generation, str(one.ip), one.port]


def _decode_id(told: list[Any]) -> MemberId:
    node_id, generation, ip, port = told
    return MemberId(node_id, generation, ip_address(ip), port)


def _encode_member(member: MemberView) -> dict[str, Any]:
    fields = {name: getattr(member, name) for name in MemberView.__dataclass_fields__}
    return {**fields, "services": sorted(member.services), "keys": dict(member.keys)}


def _decode_member(told: dict[str, Any]) -> MemberView:
    services, keys = frozenset(told["services"]), MappingProxyType(told["keys"])
    return MemberView(**{**told, "services": services, "keys": keys})
