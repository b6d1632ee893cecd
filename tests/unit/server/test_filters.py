"""What a log line shows of a request: enough to find it, and nothing of a user's data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proxy.identifiers import index_uid_message
from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.routing.catalogue import RPCS
from proxy.server.filters import COUNTED, MAX_TEXT, QUERY, SHOWN, describe
from tests.support.splitting import query

METHODS = pb.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name
UID_TEXT = "logs:01K33Z58DJRFAEBXG71GMKMJTW"
UID = index_uid_message(UID_TEXT)
# What is a user's data, or nobody's business in a log.
HIDDEN = {
    "doc_mapping_json",
    "index_checkpoint_delta_json_opt",
    "index_config_json",
    "index_template_json",
    "indexing_settings_json",
    "ingest_settings_json",
    "publish_token",
    "publish_token_opt",
    "query_ast",
    "retention_policy_json_opt",
    "search_settings_json",
    "source_config_json",
    "split_metadata_list_serialized_json",
}
SECRET = "hunter2-and-more"


def test_each_field_of_each_request_is_known() -> None:
    fields = {field.name for method in METHODS.values() for field in method.input_type.fields}
    assert fields == SHOWN | COUNTED | HIDDEN | {QUERY}
    assert not HIDDEN & (SHOWN | COUNTED)


@pytest.mark.parametrize("name", RPCS)
def test_hidden_fields_stay_hidden(name: str) -> None:
    request = GetMessageClass(METHODS[name].input_type)()
    for field in request.DESCRIPTOR.fields:
        if field.name in HIDDEN:
            setattr(request, field.name, SECRET)
    assert SECRET not in describe(RPCS[name], request.SerializeToString())


def wanted(**changes: Any) -> Message:
    return query(
        **{
            "index_uids": [UID_TEXT],
            "split_states": ["Published"],
            "time_range": {"start": {"Included": 100}, "end": {"Excluded": 200}},
            "limit": 1000,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("rpc", "request_", "text"),
    [
        (
            "ListSplits",
            wanted(),
            f"index_uids=[{UID_TEXT}] split_states=[Published] time_range=[100,200) limit=1000",
        ),
        (
            "ListSplits",
            query(
                node_id="indexer 1",
                time_range={"start": "Unbounded", "end": {"Included": 5}},
                tags={"Tag": {"is_present": True, "tag": SECRET}},
                mature={"Included": "2026-01-01T00:00:00Z"},
                excluded_split_ids=["a", "b"],
                sort_by="Staleness",
                after_split=[UID_TEXT, "a"],
                offset=7,
            ),
            (
                'node_id="indexer 1" split_states=[] time_range=(,5] tags=given '
                "mature=by 2026-01-01T00:00:00Z excluded_split_ids=2 after_split=given "
                "sort_by=Staleness offset=7"
            ),
        ),
        ("ListSplits", pb.ListSplitsRequest(query_json="{"), "query does not parse"),
        ("ListSplits", pb.ListSplitsRequest(query_json="[1]"), "query does not parse"),
        (
            "ListMetricsSplits",
            pb.ListMetricsSplitsRequest(
                index_uid=UID,
                query_json=json.dumps(
                    {"index_uid": UID_TEXT, "metric_names": [SECRET], "tag_env": SECRET}
                ),
            ),
            f"index_uid={UID_TEXT} index_uid={UID_TEXT} tag_env=given metric_names=1",
        ),
        (
            "ListIndexesMetadata",
            pb.ListIndexesMetadataRequest(index_id_patterns=["logs-*", "a,b", "-x", "1", "2", "3"]),
            'index_id_patterns=[logs-*,"a,b",-x,1,2,+1 more]',
        ),
        ("IndexMetadata", pb.IndexMetadataRequest(index_id="a\nb"), 'index_id="a\\nb"'),
        (
            "IndexesMetadata",
            pb.IndexesMetadataRequest(
                subrequests=[pb.IndexMetadataSubrequest(index_id=f"i{n}") for n in range(9)]
            ),
            "subrequests=9 indexes=[i0,i1,i2,i3,i4,+4 more]",
        ),
        (
            "DeleteSplits",
            pb.DeleteSplitsRequest(index_uid=UID, split_ids=["a", "b", "c"]),
            f"index_uid={UID_TEXT} split_ids=3",
        ),
        (
            "ToggleSource",
            pb.ToggleSourceRequest(index_uid=UID, source_id="s" * 200, enable=True),
            f"index_uid={UID_TEXT} source_id={'s' * 77}... enable=true",
        ),
        (
            "DeleteIndex",
            pb.DeleteIndexRequest(index_uid=common_pb2.IndexUid(index_id="i", incarnation_id=b"x")),
            "index_uid=i:?",
        ),
        ("GetClusterIdentity", pb.GetClusterIdentityRequest(), ""),
    ],
)
def test_a_filter_is_a_short_text(rpc: str, request_: Message, text: str) -> None:
    assert describe(RPCS[rpc], request_) == text
    assert describe(RPCS[rpc], request_.SerializeToString()) == text


def test_a_filter_is_bounded_whatever_is_asked_for() -> None:
    many = [f"{'x' * 100}{number}:01K33Z58DJRFAEBXG71GMKMJTW" for number in range(1000)]
    text = describe(
        RPCS["ListSplits"], wanted(index_uids=many, split_states=many, node_id="n" * 99)
    )
    assert len(text) == MAX_TEXT
    assert text.endswith("...")


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (b"\xff\xff", "a request that does not parse"),
        (b"x" * (1024 * 1024 + 1), "a request of 1048577 bytes"),
    ],
)
def test_what_is_not_worth_decoding_is_said_to_be_so(request_: bytes, text: str) -> None:
    assert describe(RPCS["ListSplits"], request_) == text


@pytest.mark.parametrize(
    "value",
    [1, True, "x", [], [[]], {}, {"start": 5}, {"start": {"Included": []}}, {"a": {"b": 1}}],
)
def test_a_query_of_any_shape_is_shown(value: object) -> None:
    fields = json.loads(query().query_json)
    text = json.dumps(dict.fromkeys(fields, value))
    describe(RPCS["ListSplits"], pb.ListSplitsRequest(query_json=text))
