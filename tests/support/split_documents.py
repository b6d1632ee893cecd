"""Split documents as tests write them, and how they are staged and listed."""

from __future__ import annotations

import json
from typing import Any

from proxy.store import split_documents

NOW = 1_800_000_000
ULID = "01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
UID = f"web-logs:{ULID}"
NIL = "00000000000000000000000000"
MINIMAL: dict[str, Any] = {
    "version": "0.9",
    "split_id": "split-1",
    "index_uid": UID,
    "num_docs": 9,
    "uncompressed_docs_size_in_bytes": 512,
    "footer_offsets": {"start": 2000, "end": 2500},
}
COMPLETE: dict[str, Any] = {
    "version": "0.9",
    "split_id": "split-1",
    "index_uid": UID,
    "partition_id": 18446744073709551615,
    "source_id": "kafka-a",
    "node_id": "indexer-1",
    "num_docs": 9,
    "uncompressed_docs_size_in_bytes": 512,
    "time_range": {"start": -5, "end": 199},
    "create_timestamp": 1787000001,
    "maturity": {"type": "immature", "maturation_period_millis": 172800999},
    "tags": ["tenant!", "tenant:7"],
    "footer_offsets": {"start": 2000, "end": 2500},
    "delete_opstamp": 3,
    "num_merge_ops": 4,
    "doc_mapping_uid": ULID,
}


def dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def staged(**changes: Any) -> split_documents.StagedSplit:
    (split,) = split_documents.parse_staged(dumped([{**MINIMAL, **changes}]), now=NOW)
    return split


def row(
    document: dict[str, Any] | str,
    *,
    index_uid: str = f"other:{ULID}",
    create_timestamp: int = 1787000009,
    publish_timestamp: str = "1787000043",
    head: str = "",
) -> list[str]:
    """Return what `splits/list` selects of a row."""
    published = '{"split_state":"Published","update_timestamp":1787000042,"publish_timestamp":'
    return [
        head or f"{published}{publish_timestamp}",
        str(create_timestamp),
        index_uid,
        "11",
        document if isinstance(document, str) else dumped(document),
    ]


def rendered(document: dict[str, Any] | str, **changes: Any) -> dict[str, Any]:
    text = split_documents.render_split(row(document, **changes))
    keys: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys[:] = [key for key, _ in pairs]
        return dict(pairs)

    split: dict[str, Any] = json.loads(text, object_pairs_hook=collect)
    assert len(keys) == len(set(keys)), "a key twice is an error for clients"
    return split
