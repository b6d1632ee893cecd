"""The data of the demo: the `hdfs-logs` index, its Kafka source and an indexer's splits."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

from proxy.identifiers import new_ulid

SOURCE_ID: Final = "kafka-hdfs"
TENANTS: Final = 25
START: Final = 1_767_225_600
SPLIT_SECONDS: Final = 300


def index_config() -> str:
    """Return the index config."""
    return resources.files("proxy.demo").joinpath("hdfs_logs.json").read_text(encoding="utf-8")


def source_config() -> str:
    """Return the config of the Kafka source."""
    return json.dumps(
        {
            "version": "0.9",
            "source_id": SOURCE_ID,
            "num_pipelines": 2,
            "enabled": True,
            "source_type": "kafka",
            "params": {
                "topic": "hdfs-logs",
                "client_params": {"bootstrap.servers": "kafka-0:9092,kafka-1:9092"},
            },
            "input_format": "json",
        }
    )


def split(index_uid: str, number: int) -> dict[str, Any]:
    """Return the metadata of split `number`: five minutes of one tenant's logs."""
    start = START + number * SPLIT_SECONDS
    documents = 180_000 + (number * 7_919) % 60_000
    return {
        "version": "0.9",
        "split_id": new_ulid(),
        "index_uid": index_uid,
        "partition_id": 11_400_714_819_323_198_485 + number % TENANTS,
        "source_id": SOURCE_ID,
        "node_id": f"indexer-{number % 4}",
        "num_docs": documents,
        "uncompressed_docs_size_in_bytes": documents * 412,
        "time_range": {"start": start, "end": start + SPLIT_SECONDS - 1},
        "create_timestamp": start + SPLIT_SECONDS,
        "maturity": {"type": "immature", "maturation_period_millis": 172_800_000},
        "tags": ["tenant_id!", f"tenant_id:{number % TENANTS}"],
        "footer_offsets": {"start": documents * 61, "end": documents * 61 + 48_211},
        "delete_opstamp": 0,
        "num_merge_ops": 0,
        "doc_mapping_uid": "00000000000000000000000000",
    }


def checkpoint_delta(first: int, last: int) -> str:
    """Return the checkpoint delta of a publish that moves the source from `first` to `last`."""

    def position(offset: int) -> str:
        return f"{offset:020}" if offset else ""

    return json.dumps(
        {
            "source_id": SOURCE_ID,
            "source_delta": {
                "per_partition": {
                    "00000000000000000000": {"from": position(first), "to": position(last)}
                }
            },
        }
    )


def published_query(index_uid: str, **changes: Any) -> str:
    """Return a `ListSplitsQuery` as a searcher sends it: the published splits of one index."""
    unbounded = {"start": "Unbounded", "end": "Unbounded"}
    query: dict[str, Any] = {
        "index_uids": [index_uid],
        "node_id": None,
        "limit": None,
        "offset": None,
        "split_states": ["Published"],
        "tags": None,
        "time_range": unbounded,
        "max_time_range_end": None,
        "delete_opstamp": unbounded,
        "update_timestamp": unbounded,
        "create_timestamp": unbounded,
        "mature": "Unbounded",
        "sort_by": "None",
        "after_split": None,
        "excluded_split_ids": [],
    }
    return json.dumps(query | changes)
