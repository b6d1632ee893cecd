"""What the first worker tells the others of the cluster arrives as it was."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from proxy.gossip.identity import MemberId
from proxy.gossip.messages import KeyRecord
from proxy.gossip.state import MemberRecord
from proxy.gossip.view import ClusterView, member_view
from proxy.membership import Endpoints
from proxy.workers.views import decode_records, decode_view, encode_records, encode_view

ME = MemberId("node-1", 2**64 - 1, ip_address("10.0.0.1"), 7280)
OTHER = MemberId("knoten-ü", 7, ip_address("fd00::1"), 1)
KEYS = {
    "enabled_services": "metastore,searcher",
    "grpc_advertise_addr": "10.0.0.1:7281",
    "readiness": "READY",
    "availability_zone": "zone-a",
    "strange": 'a"b\u0000c',
}
VIEW = ClusterView(
    "cluster",
    ME,
    (
        member_view(OTHER, {}, is_self=False, is_live=False, is_leaving=True),
        member_view(ME, KEYS, is_self=True, is_live=True),
    ),
    ("node-1",),
)


@pytest.mark.parametrize("endpoints", [None, Endpoints("10.0.0.1:7281", "10.0.0.1:7280", "")])
def test_a_view_survives(endpoints: Endpoints | None) -> None:
    told = json.loads(json.dumps(encode_view(VIEW, endpoints)))
    assert decode_view(told) == (VIEW, endpoints)


def test_the_state_of_members_survives() -> None:
    records = [
        MemberRecord(ME, (KeyRecord("a", "1", 1, 0), KeyRecord("b", "", 3, 2)), 3, 1),
        MemberRecord(OTHER, (), 0, 0),
    ]
    assert decode_records(json.loads(json.dumps(encode_records(records)))) == records
