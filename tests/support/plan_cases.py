"""What is sent to work on many splits at once, and on those of one index of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from proxy.store import split_query, split_sql
from proxy.store.queries import query
from tests.bench import corpus
from tests.support.plan_tables import Named
from tests.support.plans import BY_KEY, BY_RANGE, FEW, Sent
from tests.support.splitting import query as list_query


@dataclass(frozen=True)
class Sizes:
    """How many splits the large index has, how many each other, and how many indexes there are."""

    large: int
    each: int
    indexes: int

    @property
    def total(self) -> int:
        """All splits."""
        return self.large + (self.indexes - 1) * self.each


def named(of: Named) -> list[Sent]:
    """Return the statements that name splits of a large index."""
    # As many again for the rows that are changed, looked at a second time.
    blocks = FEW + 2 * BY_KEY * len(of.staged)
    documents = [
        (split_id, 1, 2, '["a"]', '{"footer_offsets":{"end":1}}', 0, 0, "node")
        for split_id in of.staged
    ]
    columns = [list(column) for column in zip(*documents, strict=True)]
    values: Mapping[str, tuple[object, ...]] = {
        "splits/stage": (of.uid, *columns),
        "splits/publish": (of.uid, of.staged, of.published),
        "splits/mark": (of.uid, of.published),
        "splits/update_opstamp": (of.uid, of.published, 7),
        "splits/delete": (of.uid, of.marked),
    }
    return [
        Sent(name, query(name), given, blocks * (2 if name == "splits/publish" else 1))
        for name, given in values.items()
    ]


def lists(of: Named, sizes: Sizes) -> list[Sent]:
    """Return lists of splits, with each filter that there is."""
    uid, some_ids = of.uid, of.published
    other = corpus.index_uid(1)
    all_of_it = FEW + int(BY_RANGE * sizes.large)
    all_of_other = FEW + int(BY_RANGE * sizes.each)
    everything = FEW + int(2 * sizes.total)
    soon = {"start": "Unbounded", "end": {"Excluded": corpus.START + 3600}}
    late = {"start": {"Included": corpus.START}, "end": "Unbounded"}
    window = {"start": {"Included": corpus.START}, "end": {"Excluded": corpus.START + 3600}}
    moment = [2025, 160, 0, 0, 0, 0, 0, 0, 0]
    tags = {"Or": [{"Tag": {"is_present": True, "tag": "tenant_id:7"}}]}
    cases: list[tuple[int, dict[str, Any]]] = [
        (all_of_it, {"index_uids": [uid], "split_states": ["Published"]}),
        (all_of_other, {"index_uids": [other], "split_states": ["Published"]}),
        (
            all_of_other,
            {"index_uids": [other], "split_states": ["Published"], "time_range": window},
        ),
        (all_of_other, {"index_uids": [other], "split_states": ["Published"], "tags": tags}),
        (
            2 * all_of_other,
            {"index_uids": [other, corpus.index_uid(2)], "split_states": ["Published"]},
        ),
        # The merge planner, on start, and retention.
        (
            all_of_other,
            {
                "index_uids": [other],
                "split_states": ["Published"],
                "mature": {"Excluded": moment},
                "node_id": "indexer-7",
            },
        ),
        (
            all_of_other,
            {
                "index_uids": [other],
                "split_states": ["Published"],
                "max_time_range_end": corpus.START + 3600,
            },
        ),
        # The garbage collector: few splits of an index are not published.
        (
            FEW + 2 * BY_KEY * len(of.staged),
            {
                "index_uids": [uid],
                "split_states": ["Staged", "MarkedForDeletion"],
                "update_timestamp": soon,
                "create_timestamp": late,
            },
        ),
        (
            everything,
            {
                "split_states": ["MarkedForDeletion"],
                "update_timestamp": late,
                "sort_by": "IndexUid",
                "after_split": [uid, some_ids[0]],
                "limit": 10_000,
            },
        ),
        # Delete tasks.
        (
            all_of_it,
            {
                "index_uids": [uid],
                "split_states": ["Published"],
                "delete_opstamp": soon,
                "sort_by": "Staleness",
                "limit": 10,
            },
        ),
        # Pages.
        (FEW, {"index_uids": [other], "split_states": ["Published"], "limit": 10}),
        (all_of_other, {"index_uids": [other], "limit": 10, "offset": 100}),
        (
            FEW,
            {
                "split_states": ["Published"],
                "mature": {"Excluded": moment},
                "sort_by": "MaturityTimestamp",
                "limit": 10,
            },
        ),
        (FEW + BY_KEY * 10, {"index_uids": [uid], "included_split_ids": list(some_ids[:10])}),
        (all_of_other, {"index_uids": [other], "excluded_split_ids": list(some_ids[:10])}),
        (everything, {"split_states": ["Published"]}),
        (FEW, {"index_uids": [], "split_states": ["Published"]}),
    ]
    used = {key for _, case in cases for key in case}
    missing = {one.name for one in fields(split_query.ListSplitsQuery)} - used
    assert not missing, f"no list filters by {sorted(missing)}"
    made = []
    for blocks, case in cases:
        sql, values = split_sql.to_sql(split_query.parse(list_query(**case).query_json))
        # Which of two orders leads to ten splits sooner depends on how many there are.
        unknown = everything if case.get("sort_by") == "MaturityTimestamp" else 0
        made.append(Sent(f"splits/list {sorted(case)}", sql, tuple(values), blocks, unknown))
    return made
