"""The query of ListMetricsSplits and ListSketchSplits: decoding and its SQL conditions. Pure.

Facts: with `sort_fields` the time range is that of the merge window (a compaction scope) and
splits without a window are left out; otherwise it is the time range of the data. Creation and
update times are compared as epoch seconds rounded to the nearest. Values are always bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy import identifiers
from proxy.store import documents
from proxy.store.documents import Reader
from proxy.store.split_query import SPLIT_STATES, unix_seconds

STRUCT: Final = "quickwit_metastore::metastore::ListParquetSplitsQuery"

_TAGS: Final = ("tag_service", "tag_env", "tag_datacenter", "tag_region", "tag_host")
_LOWER: Final = {"Included": ">=", "Excluded": ">"}
_UPPER: Final = {"Included": "<=", "Excluded": "<"}
_MATURE: Final = {"Included": "<=", "Excluded": ">"}
# PostgreSQL's timestamps begin in 4714 BC.
_FIRST_TIMESTAMP: Final = -210_866_803_200

# The kind of an end of a range and its value; None where the range is open.
_Bound = tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class SqlConditions:
    """A conjunction over the columns of a split table, and the values of its `$n`."""

    sql: str
    limit: int | None
    values: tuple[object, ...]


class _Builder:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self._values: list[object] = []

    def add(self, condition: str, value: object) -> None:
        """Add a condition in which `$` stands for the value."""
        self._values.append(value)
        self._parts.append(condition.replace("$", f"${len(self._values)}"))

    def add_bounds(self, bounds: tuple[_Bound, _Bound], low: str, high: str) -> None:
        """Add the start of a range as a bound of `high` and its end as one of `low`."""
        start, end = bounds
        if start is not None:
            self.add(f"{high} {_LOWER[start[0]]} $::bigint", start[1])
        if end is not None:
            self.add(f"{low} {_UPPER[end[0]]} $::bigint", end[1])

    def build(self, limit: int | None) -> SqlConditions:
        return SqlConditions(" AND ".join(self._parts), limit, tuple(self._values))


def decode(text: str) -> SqlConditions:
    """Decode a query and return its conditions. `JsonDeserializeError` naming the wrong field."""
    reader = Reader(documents.parse(text, STRUCT), STRUCT)
    builder = _Builder()
    builder.add("index_uid = $", _index_uid(reader))
    states = reader.strings("split_states", [])
    for state in states:
        if state not in SPLIT_STATES:
            reader.fail(f"field `split_states` holds unknown state `{state}`")
    if states:
        builder.add("split_state = ANY ($::text[])", states)
    _add_time_range(builder, reader)
    metric_names = reader.strings("metric_names", [])
    if metric_names:
        builder.add("metric_names && $::text[]", metric_names)
    for column in _TAGS:
        tag = reader.string(column, None, nullable=True)
        if tag is not None:
            # Unlike with `= ANY`, the column's index is used.
            builder.add(f"{column} @> ARRAY[$::text]", tag)
    for column in ("sort_fields", "node_id"):
        value = reader.string(column, None, nullable=True)
        if value is not None:
            builder.add(f"{column} = $", value)
    _add_ranges(builder, reader)
    after_split_id = reader.string("after_split_id", None, nullable=True)
    if after_split_id is not None:
        builder.add("split_id > $", after_split_id)
    limit = reader.integer("limit", None, nullable=True)
    return builder.build(None if limit is None else min(limit, documents.I64_MAX))


def _index_uid(reader: Reader) -> str:
    text: str = reader.string("index_uid")
    try:
        return identifiers.index_uid_text(identifiers.index_uid_message(text))
    except ValueError as error:
        reader.fail(f"field `index_uid` is not `<index_id>:<ULID>`: {error}")


def _add_time_range(builder: _Builder, reader: Reader) -> None:
    low, high = "time_range_start", "time_range_end"
    if reader.string("sort_fields", None, nullable=True) is not None:
        low, high = "window_start", "window_start + window_duration_secs"
    builder.add_bounds(_range(reader, "time_range"), low, high)


def _add_ranges(builder: _Builder, reader: Reader) -> None:
    builder.add_bounds(_opstamps(reader), "delete_opstamp", "delete_opstamp")
    for column in ("update_timestamp", "create_timestamp"):
        seconds = f"extract(epoch FROM {column})::bigint"
        builder.add_bounds(_range(reader, column), seconds, seconds)
    mature = _mature(reader)
    if mature is not None:
        builder.add(
            f"maturity_timestamp {_MATURE[mature[0]]} to_timestamp($::double precision)",
            float(mature[1]),
        )
    max_end = reader.integer(
        "max_time_range_end",
        None,
        nullable=True,
        minimum=documents.I64_MIN,
        maximum=documents.I64_MAX,
    )
    if max_end is not None:
        builder.add("time_range_end <= $::bigint", max_end)


def _opstamps(reader: Reader) -> tuple[_Bound, _Bound]:
    """Return the range of opstamps, cut to what the column can hold."""
    start, end = _range(reader, "delete_opstamp", minimum=0, maximum=documents.U64_MAX)
    if start is not None and start[1] > documents.I64_MAX:
        start = "Excluded", documents.I64_MAX
    if end is not None and end[1] > documents.I64_MAX:
        end = None
    return start, end


def _range(
    reader: Reader,
    key: str,
    minimum: int = documents.I64_MIN,
    maximum: int = documents.I64_MAX,
) -> tuple[_Bound, _Bound]:
    ends = reader.object(key)
    start, end = (_range_end(ends, side, minimum, maximum) for side in ("start", "end"))
    return start, end


def _range_end(ends: Reader, side: str, minimum: int, maximum: int) -> _Bound:
    bound = _bound(ends, side)
    if bound is None:
        return None
    kind, holder = bound
    return kind, holder.integer(kind, minimum=minimum, maximum=maximum)


def _bound(reader: Reader, key: str) -> tuple[str, Reader] | None:
    """Return the kind of a bound and the reader of the object that holds its value."""
    value = reader.get(key)
    if value == "Unbounded":
        return None
    kind = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None
    if kind not in _LOWER:
        reader.fail(
            f"field `{reader.path}{key}` is {documents.shape(value)}, expected `Unbounded`, "
            "`Included` or `Excluded`"
        )
    return kind, reader.object(key)


def _mature(reader: Reader) -> _Bound:
    """Return the bound of `mature`, its moment as Unix seconds."""
    bound = _bound(reader, "mature")
    if bound is None:
        return None
    kind, holder = bound
    try:
        seconds = unix_seconds(holder.get(kind))
    except ValueError as error:
        holder.fail(f"field `{holder.path}{kind}` is no datetime: {error}")
    return kind, max(seconds, _FIRST_TIMESTAMP)
