"""Index configs as tests write them, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import errors
from proxy.store import index_configs

STRUCT = "quickwit_config::index_config::IndexConfig"
TS = {"name": "ts", "type": "datetime", "fast": True}


def minimal(**changes: Any) -> dict[str, Any]:
    return {
        "version": "0.9",
        "index_id": "web-logs",
        "index_uri": "s3://acme/web-logs",
        "doc_mapping": {},
    } | changes


def mapping(*fields: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return minimal(doc_mapping={"field_mappings": list(fields)} | changes)


def decode(config: object) -> dict[str, Any]:
    return index_configs.decode(json.dumps(config))


def refused(config: object) -> str:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        decode(config)
    assert caught.value.struct_name == STRUCT
    return caught.value.message
