"""A status as a JSON document: of the page, of its address, and of `metastore-proxy status`."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from proxy.proto.metastore_proxy.v1 import status_pb2 as pb


def as_json(status: pb.GetStatusResponse) -> dict[str, Any]:
    """Return a status as JSON has it; see `status.proto`."""
    answer: dict[str, Any] = json_format.MessageToDict(
        status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for node in answer["nodes"]:
        # JSON has no NaN; protobuf writes it as a text.
        node["lag_history"] = [None if isinstance(one, str) else one for one in node["lag_history"]]
    return answer
