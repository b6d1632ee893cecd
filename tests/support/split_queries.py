"""`ListSplitsQuery` as tests write it."""

from __future__ import annotations

import json
from typing import Any

from proxy.store import split_query
from proxy.store.split_query import ListSplitsQuery

ULID = "01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
UID = f"web-logs:{ULID}"
OPEN = {"start": "Unbounded", "end": "Unbounded"}
ALL: dict[str, Any] = {
    "index_uids": None,
    "node_id": None,
    "limit": None,
    "offset": None,
    "split_states": [],
    "tags": None,
    "time_range": OPEN,
    "max_time_range_end": None,
    "delete_opstamp": OPEN,
    "update_timestamp": OPEN,
    "create_timestamp": OPEN,
    "mature": "Unbounded",
    "sort_by": "None",
    "after_split": None,
    "excluded_split_ids": [],
}


def parsed(**changes: Any) -> ListSplitsQuery:
    return split_query.parse(json.dumps({**ALL, **changes}))


def tag(text: str, is_present: bool = True) -> dict[str, Any]:
    return {"Tag": {"is_present": is_present, "tag": text}}
