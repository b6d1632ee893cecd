"""The SQL that a `ListSplitsQuery` means; values are always bound.

Facts: the meaning of every filter is Quickwit's. Splits without a time range match any
`time_range` but never `max_time_range_end`; an empty list of index UIDs selects nothing, while an
empty list elsewhere is no filter; an empty `And` or `Or` of tags is true. Whole seconds are
compared with columns of microsecond precision. `limit` alone does not sort; `offset` adds
`split_id` to the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from proxy.store import documents
from proxy.store.queries import query as static_query
from proxy.store.split_query import Bound, ListSplitsQuery, Range, Tag, TagFilter, TagGroup


class _Statement:
    """Conditions and the values bound to their placeholders."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.arguments: list[object] = []

    def bind(self, value: object, sql_type: str) -> str:
        self.arguments.append(value)
        return f"${len(self.arguments)}::{sql_type}"

    def where(self, condition: str) -> None:
        self.conditions.append(condition)


def to_sql(query: ListSplitsQuery) -> tuple[str, list[object]]:
    """Return the SELECT of a query and its arguments; no value is part of the text."""
    statement = _Statement()
    _filter_identity(statement, query)
    _filter_times(statement, query)
    parts = [static_query("splits/list").rstrip()]
    if statement.conditions:
        parts.append("WHERE " + " AND ".join(statement.conditions))
    order = query.sort_by.columns
    if query.offset is not None and "split_id" not in order:
        order.append("split_id")
    if order:
        parts.append("ORDER BY " + ", ".join(order))
    if query.limit is not None:
        parts.append("LIMIT " + statement.bind(min(query.limit, documents.I64_MAX), "bigint"))
    if query.offset is not None:
        parts.append("OFFSET " + statement.bind(min(query.offset, documents.I64_MAX), "bigint"))
    return "\n".join(parts), statement.arguments


@cache
def stale() -> str:
    """Return the SELECT of stale splits: index UID, opstamp and number are its arguments."""
    purpose, _, filters = static_query("splits/list_stale").partition("\n")
    # Known by its own first line.
    return f"{purpose}\n{static_query('splits/list').rstrip()}\n{filters}"


def _filter_identity(statement: _Statement, query: ListSplitsQuery) -> None:
    if query.index_uids is not None:
        statement.where(f"index_uid = ANY({statement.bind(query.index_uids, 'text[]')})")
    if query.node_id is not None:
        statement.where(f"node_id = {statement.bind(query.node_id, 'text')}")
    if query.split_states:
        statement.where(f"split_state = ANY({statement.bind(query.split_states, 'text[]')})")
    if query.tags is not None:
        statement.where(_tag_condition(statement, query.tags))
    if query.after_split is not None:
        index_uid, split_id = query.after_split
        statement.where(
            f"(index_uid, split_id) > ({statement.bind(index_uid, 'text')}, "
            f"{statement.bind(split_id, 'text')})"
        )
    if query.included_split_ids:
        statement.where(f"split_id = ANY({statement.bind(query.included_split_ids, 'text[]')})")
    if query.excluded_split_ids:
        statement.where(f"split_id <> ALL({statement.bind(query.excluded_split_ids, 'text[]')})")


def _filter_times(statement: _Statement, query: ListSplitsQuery) -> None:
    if query.max_time_range_end is not None:
        statement.where(f"time_range_end <= {statement.bind(query.max_time_range_end, 'bigint')}")
    for column, sign, bound in (
        ("time_range_end", ">", query.time_range.start),
        ("time_range_start", "<", query.time_range.end),
    ):
        if bound is not None:
            compared = f"{column} {_operator(sign, bound)} {statement.bind(bound.value, 'bigint')}"
            statement.where(f"({compared} OR {column} IS NULL)")
    if query.mature is not None:
        moment = _moment(statement, query.mature.value)
        if query.mature.is_included:
            # Maturity at the epoch means "always mature", also for a moment before the epoch.
            epoch = "TIMESTAMP '1970-01-01'"
            statement.where(f"(maturity_timestamp = {epoch} OR maturity_timestamp <= {moment})")
        else:
            statement.where(f"maturity_timestamp > {moment}")
    for column, bounds in (
        ("update_timestamp", query.update_timestamp),
        ("create_timestamp", query.create_timestamp),
    ):
        for sign, bound in ((">", bounds.start), ("<", bounds.end)):
            if bound is not None:
                moment = _moment(statement, bound.value)
                statement.where(f"{column} {_operator(sign, bound)} {moment}")
    _filter_opstamp(statement, query.delete_opstamp)


def _filter_opstamp(statement: _Statement, bounds: Range) -> None:
    for sign, bound in ((">", bounds.start), ("<", bounds.end)):
        if bound is None:
            continue
        if bound.value <= documents.I64_MAX:
            value = statement.bind(bound.value, "bigint")
            statement.where(f"delete_opstamp {_operator(sign, bound)} {value}")
        elif sign == ">":
            # No stored opstamp is that large; as an upper end it excludes nothing.
            statement.where("FALSE")


def _operator(sign: str, bound: Bound) -> str:
    return f"{sign}=" if bound.is_included else sign


def _moment(statement: _Statement, seconds: int) -> str:
    # The columns hold UTC without a zone.
    return f"(to_timestamp({statement.bind(seconds, 'bigint')}) AT TIME ZONE 'UTC')"


def _tag_condition(statement: _Statement, node: TagFilter) -> str:
    if isinstance(node, Tag):
        condition = f"{statement.bind(node.tag, 'text')} = ANY(tags)"
        return condition if node.is_present else f"NOT {condition}"
    conditions = [
        *_leaf_conditions(statement, node),
        *(
            _tag_condition(statement, child)
            for child in node.children
            if isinstance(child, TagGroup)
        ),
    ]
    if not conditions:
        return "TRUE"
    return f"({(' OR ' if node.is_or else ' AND ').join(conditions)})"


def _leaf_conditions(statement: _Statement, group: TagGroup) -> Sequence[str]:
    """Return the conditions of a group's own tags: two array operators, however many tags."""
    present = [leaf.tag for leaf in group.children if isinstance(leaf, Tag) and leaf.is_present]
    absent = [leaf.tag for leaf in group.children if isinstance(leaf, Tag) and not leaf.is_present]
    # "has any" is an overlap, "has all" a containment; De Morgan gives the negated ones.
    any_of, all_of = "&&", "@>"
    conditions = []
    if present:
        operator = any_of if group.is_or else all_of
        conditions.append(f"tags {operator} {statement.bind(present, 'text[]')}")
    if absent:
        operator = all_of if group.is_or else any_of
        conditions.append(f"NOT tags {operator} {statement.bind(absent, 'text[]')}")
    return conditions
