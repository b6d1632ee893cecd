"""Documents and queries of parquet splits, and requests of both families."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore

INDEX_UID = "web-logs:01J5ZQ3V7Y8M4N6P2R9S0T1VWX"
OPEN_RANGE = {"start": "Unbounded", "end": "Unbounded"}


def metadata(split_id: str = "s1", index_uid: str = INDEX_UID, **keys: Any) -> dict[str, Any]:
    """Return a canonical metadata document; a key set to None is left out."""
    document = {
        "kind": "Metrics",
        "partition_id": 0,
        "split_id": split_id,
        "index_uid": index_uid,
        "time_range": {"start_secs": 100, "end_secs": 200},
        "num_rows": 10,
        "size_bytes": 1000,
        "metric_names": ["cpu.usage"],
        "low_cardinality_tags": {},
        "high_cardinality_tag_keys": [],
        "created_at": {"secs_since_epoch": 1_787_000_000, "nanos_since_epoch": 500},
        "maturity": {"type": "mature"},
        "parquet_file": "",
        "window_duration_secs": 0,
        "sort_fields": "",
        "num_merge_ops": 0,
        **keys,
    }
    return {key: value for key, value in document.items() if value is not None}


def list_query(index_uid: str = INDEX_UID, **keys: Any) -> dict[str, Any]:
    """Return a query without filters but on the index, as clients send it."""
    return {
        "index_uid": index_uid,
        "split_states": [],
        "time_range": OPEN_RANGE,
        "metric_names": [],
        "tag_service": None,
        "tag_env": None,
        "tag_datacenter": None,
        "tag_region": None,
        "tag_host": None,
        "sort_fields": None,
        "node_id": None,
        "delete_opstamp": OPEN_RANGE,
        "update_timestamp": OPEN_RANGE,
        "create_timestamp": OPEN_RANGE,
        "mature": "Unbounded",
        "limit": None,
        "after_split_id": None,
        "max_time_range_end": None,
        **keys,
    }


@dataclass(frozen=True)
class Family:
    """The RPCs of one of the two families and the table behind them."""

    name: str
    table: str
    label: str

    def _request(self, pattern: str) -> Any:
        return getattr(pb, pattern.format(self.name) + "Request")

    async def stage(
        self, metastore: Metastore, uid: common_pb2.IndexUid, *documents: dict[str, Any] | str
    ) -> None:
        """Stage documents (or raw texts)."""
        texts = [item if isinstance(item, str) else json.dumps(item) for item in documents]
        request = self._request("Stage{}Splits")(index_uid=uid, splits_metadata_json=texts)
        assert await metastore.call(f"Stage{self.name}Splits", request) == pb.EmptyResponse()

    async def publish(
        self,
        metastore: Metastore,
        uid: common_pb2.IndexUid,
        *staged: str,
        replaced: tuple[str, ...] = (),
        delta: dict[str, Any] | str | None = None,
        token: str | None = None,
    ) -> None:
        """Publish splits."""
        request = self._request("Publish{}Splits")(
            index_uid=uid,
            staged_split_ids=staged,
            replaced_split_ids=replaced,
            index_checkpoint_delta_json_opt=(
                delta if delta is None or isinstance(delta, str) else json.dumps(delta)
            ),
            publish_token_opt=token,
        )
        assert await metastore.call(f"Publish{self.name}Splits", request) == pb.EmptyResponse()

    async def mark(self, metastore: Metastore, uid: common_pb2.IndexUid, *split_ids: str) -> None:
        """Mark splits for deletion."""
        rpc = f"Mark{self.name}SplitsForDeletion"
        request = self._request("Mark{}SplitsForDeletion")(index_uid=uid, split_ids=split_ids)
        assert await metastore.call(rpc, request) == pb.EmptyResponse()

    async def delete(self, metastore: Metastore, uid: common_pb2.IndexUid, *split_ids: str) -> None:
        """Delete splits."""
        request = self._request("Delete{}Splits")(index_uid=uid, split_ids=split_ids)
        assert await metastore.call(f"Delete{self.name}Splits", request) == pb.EmptyResponse()

    async def list(
        self, metastore: Metastore, uid: common_pb2.IndexUid, query: dict[str, Any] | str
    ) -> list[dict[str, Any]]:
        """Return the records of a list."""
        text = query if isinstance(query, str) else json.dumps(query)
        request = self._request("List{}Splits")(index_uid=uid, query_json=text)
        response = await metastore.call(f"List{self.name}Splits", request)
        return [json.loads(record) for record in response.splits_serialized_json]

    async def states(self, metastore: Metastore) -> dict[str, str]:
        """Return the state of each row."""
        rows = await metastore.sql.fetch(f"SELECT split_id, split_state FROM {self.table}")
        return {row["split_id"]: row["split_state"] for row in rows}


METRICS = Family("Metrics", "metrics_splits", "metrics")
SKETCHES = Family("Sketch", "sketch_splits", "sketch")
