"""`ListSplitsQuery`: the SQL it turns into."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.store import split_sql
from proxy.store.queries import name_of
from proxy.store.queries import query as static_query
from proxy.store.split_query import ListSplitsQuery, Tag, TagGroup
from tests.support.split_queries import OPEN, UID, parsed, tag


def where(**changes: Any) -> tuple[str, list[object]]:
    """Return what follows the static SELECT, on one line, and the arguments."""
    sql, arguments = split_sql.to_sql(parsed(**changes))
    prefix = static_query("splits/list").rstrip()
    assert sql.startswith(prefix)
    return " ".join(sql[len(prefix) :].split()), arguments


class TestSql:
    def test_stale_splits_are_selected_as_any_and_known_by_their_own_name(self) -> None:
        stale, columns = split_sql.stale(), static_query("splits/list").rstrip()
        assert f"\n{columns}\n--" in stale
        assert stale.endswith("LIMIT $3::bigint\n")
        assert name_of(stale) == "splits/list_stale"

    def test_no_filter_is_no_clause(self) -> None:
        assert where() == ("", [])

    @pytest.mark.parametrize(
        ("changes", "clause", "arguments"),
        [
            ({"index_uids": [UID]}, "index_uid = ANY($1::text[])", [(UID,)]),
            ({"index_uids": []}, "index_uid = ANY($1::text[])", [()]),
            ({"node_id": "n"}, "node_id = $1::text", ["n"]),
            ({"split_states": ["Staged"]}, "split_state = ANY($1::text[])", [("Staged",)]),
            ({"max_time_range_end": 9}, "time_range_end <= $1::bigint", [9]),
            (
                {"time_range": {**OPEN, "start": {"Included": 1}}},
                "(time_range_end >= $1::bigint OR time_range_end IS NULL)",
                [1],
            ),
            (
                {"time_range": {**OPEN, "start": {"Excluded": 1}}},
                "(time_range_end > $1::bigint OR time_range_end IS NULL)",
                [1],
            ),
            (
                {"time_range": {**OPEN, "end": {"Included": 1}}},
                "(time_range_start <= $1::bigint OR time_range_start IS NULL)",
                [1],
            ),
            (
                {"time_range": {**OPEN, "end": {"Excluded": 1}}},
                "(time_range_start < $1::bigint OR time_range_start IS NULL)",
                [1],
            ),
            (
                {"mature": {"Included": [1970, 2, 0, 0, 0, 0, 0, 0, 0]}},
                (
                    "(maturity_timestamp = TIMESTAMP '1970-01-01' OR maturity_timestamp <= "
                    "(to_timestamp($1::bigint) AT TIME ZONE 'UTC'))"
                ),
                [86400],
            ),
            (
                {"mature": {"Excluded": [1970, 2, 0, 0, 0, 0, 0, 0, 0]}},
                "maturity_timestamp > (to_timestamp($1::bigint) AT TIME ZONE 'UTC')",
                [86400],
            ),
            (
                {"update_timestamp": {"start": {"Included": 1}, "end": {"Excluded": 2}}},
                (
                    "update_timestamp >= (to_timestamp($1::bigint) AT TIME ZONE 'UTC') AND "
                    "update_timestamp < (to_timestamp($2::bigint) AT TIME ZONE 'UTC')"
                ),
                [1, 2],
            ),
            (
                {"create_timestamp": {"start": {"Excluded": 1}, "end": {"Included": 2}}},
                (
                    "create_timestamp > (to_timestamp($1::bigint) AT TIME ZONE 'UTC') AND "
                    "create_timestamp <= (to_timestamp($2::bigint) AT TIME ZONE 'UTC')"
                ),
                [1, 2],
            ),
            (
                {"delete_opstamp": {"start": {"Included": 1}, "end": {"Excluded": 2}}},
                "delete_opstamp >= $1::bigint AND delete_opstamp < $2::bigint",
                [1, 2],
            ),
            ({"delete_opstamp": {**OPEN, "start": {"Included": 2**63}}}, "FALSE", []),
            (
                {"after_split": [UID, "s"]},
                "(index_uid, split_id) > ($1::text, $2::text)",
                [UID, "s"],
            ),
            ({"included_split_ids": ["s"]}, "split_id = ANY($1::text[])", [("s",)]),
            ({"excluded_split_ids": ["s"]}, "split_id <> ALL($1::text[])", [("s",)]),
        ],
    )
    def test_one_filter(
        self, changes: dict[str, Any], clause: str, arguments: list[object]
    ) -> None:
        assert where(**changes) == (f"WHERE {clause}", arguments)

    def test_an_upper_opstamp_beyond_the_column_is_no_filter(self) -> None:
        assert where(delete_opstamp={**OPEN, "end": {"Excluded": 2**64 - 1}}) == ("", [])

    @pytest.mark.parametrize(
        ("tags", "clause", "arguments"),
        [
            (tag("a$1'\""), "$1::text = ANY(tags)", ["a$1'\""]),
            (tag("a", is_present=False), "NOT $1::text = ANY(tags)", ["a"]),
            ({"And": []}, "TRUE", []),
            ({"Or": []}, "TRUE", []),
            ({"Or": [{"Or": []}]}, "(TRUE)", []),
            ({"And": [tag("a"), tag("b")]}, "(tags @> $1::text[])", [["a", "b"]]),
            ({"Or": [tag("a"), tag("b")]}, "(tags && $1::text[])", [["a", "b"]]),
            (
                {"And": [tag("a"), tag("b", is_present=False)]},
                "(tags @> $1::text[] AND NOT tags && $2::text[])",
                [["a"], ["b"]],
            ),
            (
                {"Or": [tag("a"), tag("b", is_present=False)]},
                "(tags && $1::text[] OR NOT tags @> $2::text[])",
                [["a"], ["b"]],
            ),
            (
                {"And": [tag("a"), {"Or": [tag("b"), {"And": []}]}]},
                "(tags @> $1::text[] AND (tags && $2::text[] OR TRUE))",
                [["a"], ["b"]],
            ),
        ],
    )
    def test_tags(self, tags: dict[str, Any], clause: str, arguments: list[object]) -> None:
        assert where(tags=tags) == (f"WHERE {clause}", arguments)

    @pytest.mark.parametrize(
        ("changes", "clause", "arguments"),
        [
            ({"limit": 5}, "LIMIT $1::bigint", [5]),
            ({"limit": 0}, "LIMIT $1::bigint", [0]),
            ({"limit": 2**64 - 1}, "LIMIT $1::bigint", [2**63 - 1]),
            ({"offset": 0}, "ORDER BY split_id OFFSET $1::bigint", [0]),
            ({"sort_by": "Staleness"}, "ORDER BY delete_opstamp, publish_timestamp", []),
            ({"sort_by": "IndexUid"}, "ORDER BY index_uid, split_id", []),
            ({"sort_by": "MaturityTimestamp"}, "ORDER BY maturity_timestamp, split_id", []),
            (
                {"sort_by": "Staleness", "offset": 2, "limit": 3},
                (
                    "ORDER BY delete_opstamp, publish_timestamp, split_id "
                    "LIMIT $1::bigint OFFSET $2::bigint"
                ),
                [3, 2],
            ),
            (
                {"sort_by": "IndexUid", "offset": 2},
                "ORDER BY index_uid, split_id OFFSET $1::bigint",
                [2],
            ),
        ],
    )
    def test_order_and_pages(
        self, changes: dict[str, Any], clause: str, arguments: list[object]
    ) -> None:
        assert where(**changes) == (clause, arguments)

    def test_no_text_of_the_query_reaches_the_statement(self) -> None:
        text = "'; DROP TABLE splits; --"
        sql, arguments = split_sql.to_sql(
            ListSplitsQuery(
                index_uids=(text,),
                node_id=text,
                tags=TagGroup(
                    is_or=True, children=(Tag(text, is_present=True), Tag(text, is_present=False))
                ),
                after_split=(text, text),
                included_split_ids=(text,),
                excluded_split_ids=(text,),
            )
        )
        assert "DROP" not in sql
        assert len(arguments) == 8
