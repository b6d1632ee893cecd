"""An index whose metrics or sketch splits a test works on."""

from __future__ import annotations

import json
from typing import Any

from proxy.proto.quickwit import common_pb2
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.support.access import Metastore
from tests.support.parquet_samples import Family, list_query, metadata

INGEST = "_ingest-source"


class ParquetIndex:
    """An index of the test with the calls of one family on it."""

    def __init__(
        self, metastore: Metastore, family: Family, uid: common_pb2.IndexUid, text: str
    ) -> None:
        self.metastore = metastore
        self.family = family
        self.uid = uid
        self.text = text

    async def stage(self, *split_ids: str, **keys: Any) -> None:
        """Stage splits with the same metadata."""
        documents = [metadata(split_id, self.text, **keys) for split_id in split_ids]
        await self.family.stage(self.metastore, self.uid, *documents)

    async def publish(self, *staged: str, **arguments: Any) -> None:
        """Publish splits."""
        await self.family.publish(self.metastore, self.uid, *staged, **arguments)

    async def mark(self, *split_ids: str) -> None:
        """Mark splits for deletion."""
        await self.family.mark(self.metastore, self.uid, *split_ids)

    async def delete(self, *split_ids: str) -> None:
        """Delete splits."""
        await self.family.delete(self.metastore, self.uid, *split_ids)

    async def list(self, **keys: Any) -> list[dict[str, Any]]:
        """Return the records that a query with these filters finds."""
        return await self.family.list(self.metastore, self.uid, list_query(self.text, **keys))

    async def ids(self, **keys: Any) -> list[str]:
        """Return the split IDs that a query with these filters finds."""
        return [record["metadata"]["split_id"] for record in await self.list(**keys)]

    async def states(self) -> dict[str, str]:
        """Return the state of each row."""
        return await self.family.states(self.metastore)

    async def row(self, split_id: str) -> dict[str, Any]:
        """Return one row."""
        row = await self.metastore.sql.fetchrow(
            f"SELECT * FROM {self.family.table} WHERE split_id = $1", split_id
        )
        assert row is not None
        return dict(row)

    async def update(self, assignment: str) -> None:
        """Change all rows."""
        await self.metastore.sql.execute(f"UPDATE {self.family.table} SET {assignment}")

    async def checkpoint(self) -> dict[str, dict[str, str]]:
        """Return the checkpoint of the index."""
        response = await self.metastore.call(
            "IndexMetadata", pb.IndexMetadataRequest(index_uid=self.uid)
        )
        document = json.loads(response.index_metadata_serialized_json)
        checkpoint: dict[str, dict[str, str]] = document["checkpoint"]
        return checkpoint
