"""Requests that are not what their RPC takes: which field the error names."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.proto.quickwit import metastore_pb2 as pb
from proxy.server.decoding import decode


def test_a_valid_request_is_decoded() -> None:
    request = pb.DeleteSourceRequest(index_uid={"index_id": "web-logs"}, source_id="vector")

    assert decode(pb.DeleteSourceRequest, request.SerializeToString()) == request


@pytest.mark.parametrize(
    "raw",
    [
        b"\xa2\x06\x01x",  # field 100 as bytes
        b"\xa0\x06\x01",  # field 100 as a varint
        b"\x0a\x05\xa2\x06\x02\x0a\x00",  # field 100 inside the index UID
    ],
)
def test_unknown_fields_of_newer_callers_are_ignored(raw: bytes) -> None:
    assert decode(pb.DeleteSourceRequest, raw + b"\x12\x03abc").source_id == "abc"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\x10\x01", "field `source_id` is a varint, expected a length-delimited value"),
        (
            b"\x0a\x02\x10\x01",
            "field `index_uid.incarnation_id` is a varint, expected a length-delimited value",
        ),
        (b"\x08\x01", "field `index_uid` is a varint, expected a length-delimited value"),
        (b"\x13", "field `source_id` is wire type 3, expected a length-delimited value"),
        (b"\x12\x01\xff", "field `source_id` is a string that is not UTF-8: invalid start byte"),
        (
            b"\x0a\x03\x0a\x01\xff",
            "field `index_uid.index_id` is a string that is not UTF-8: invalid start byte",
        ),
        (b"\x12\x05ab", "malformed protobuf in field `source_id`: it ends after 2 of 5 bytes"),
        (b"\x12", "malformed protobuf in field `source_id`: the bytes end inside a number"),
        (
            b"\x0a\x02\x12\x09",
            "malformed protobuf in field `index_uid.incarnation_id`: it ends after 0 of 9 bytes",
        ),
        (b"\x0a\x01\xff", "malformed protobuf in field `index_uid`: the bytes end inside a number"),
        (b"\xff", "malformed protobuf: the bytes end inside a number"),
        (b"\xff" * 11, "malformed protobuf: a number has more than ten bytes"),
    ],
)
def test_the_field_at_fault_is_named(raw: bytes, problem: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        decode(pb.DeleteSourceRequest, raw)

    message = f"the request is not a quickwit.metastore.DeleteSourceRequest: {problem}"
    assert caught.value.message == message


def test_a_list_of_another_type_is_not_an_empty_list() -> None:
    with pytest.raises(errors.InvalidArgument, match="field `split_ids` is a 32-bit value"):
        decode(pb.DeleteSplitsRequest, b"\x1d\x01\x00\x00\x00")
