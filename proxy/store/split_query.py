"""`ListSplitsQuery`: its JSON form, checked, as a frozen value.

Facts: the layout, the required keys and the encoding of `mature` are Quickwit's; unknown keys are
ignored. Timestamps are Unix seconds, UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from proxy.errors import JsonDeserializeError
from proxy.store import documents
from proxy.store.split_documents import checked_index_uid

STRUCT_NAME: Final = "quickwit_metastore::metastore::ListSplitsQuery"
SPLIT_STATES: Final = ("Staged", "Published", "MarkedForDeletion")

# Quickwit's JSON reader allows this many nested containers.
_MAX_DEPTH: Final = 127
_EPOCH_DAY: Final = 719_162
_DATETIME: Final = re.compile(
    r"([+-]?[0-9]{4,6})-([0-9]{2})-([0-9]{2})[ Tt]([0-9]{1,2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))? ?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)"
)


class SortBy(Enum):
    """The order of the answer; the value names the columns of the ORDER BY list, all ascending."""

    # Text, because Python 3.11.2 (Debian 12) makes a bare `object()` of an empty tuple here.
    NONE = ""
    STALENESS = "delete_opstamp publish_timestamp"
    INDEX_UID = "index_uid split_id"
    MATURITY_TIMESTAMP = "maturity_timestamp split_id"

    @property
    def columns(self) -> list[str]:
        """The columns, in order; empty when any order will do."""
        return self.value.split()


_SORT_BY: Final = {
    "None": SortBy.NONE,
    "Staleness": SortBy.STALENESS,
    "IndexUid": SortBy.INDEX_UID,
    "MaturityTimestamp": SortBy.MATURITY_TIMESTAMP,
}


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range; without one the range is open on that side."""

    value: int
    is_included: bool


@dataclass(frozen=True, slots=True)
class Range:
    """Two optional bounds."""

    start: Bound | None = None
    end: Bound | None = None


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag that must be among a split's tags, or must not."""

    tag: str
    is_present: bool


@dataclass(frozen=True, slots=True)
class TagGroup:
    """A conjunction or disjunction of filters on tags; an empty one is true either way."""

    is_or: bool
    children: tuple[TagFilter, ...]


TagFilter = Tag | TagGroup

# What most ranges of most queries are.
_UNBOUNDED: Final = {"start": "Unbounded", "end": "Unbounded"}
_EVERYTHING: Final = Range()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSplitsQuery:
    """A checked query. `mature.is_included` selects mature splits, the opposite immature ones."""

    index_uids: tuple[str, ...] | None = None
    node_id: str | None = None
    split_states: tuple[str, ...] = ()
    tags: TagFilter | None = None
    max_time_range_end: int | None = None
    time_range: Range = Range()
    mature: Bound | None = None
    update_timestamp: Range = Range()
    create_timestamp: Range = Range()
    delete_opstamp: Range = Range()
    after_split: tuple[str, str] | None = None
    included_split_ids: tuple[str, ...] = ()
    excluded_split_ids: tuple[str, ...] = ()
    sort_by: SortBy = SortBy.NONE
    limit: int | None = None
    offset: int | None = None


def parse(text: str) -> ListSplitsQuery:
    """Return the query of a ListSplits request. `JsonDeserializeError` naming the wrong field."""
    reader = documents.Reader(documents.parse(text, STRUCT_NAME), STRUCT_NAME)
    return ListSplitsQuery(
        index_uids=_index_uids(reader),
        node_id=reader.string("node_id", None, nullable=True),
        split_states=_split_states(reader),
        tags=_tags(reader),
        max_time_range_end=_signed(reader, "max_time_range_end", None, nullable=True),
        time_range=_range(reader, "time_range", minimum=documents.I64_MIN),
        mature=_mature(reader),
        update_timestamp=_range(reader, "update_timestamp", minimum=documents.I64_MIN),
        create_timestamp=_range(reader, "create_timestamp", minimum=documents.I64_MIN),
        delete_opstamp=_range(reader, "delete_opstamp", minimum=0, maximum=documents.U64_MAX),
        after_split=_after_split(reader),
        included_split_ids=tuple(reader.strings("included_split_ids", [])),
        excluded_split_ids=tuple(reader.strings("excluded_split_ids", [])),
        sort_by=_sort_by(reader),
        limit=reader.integer("limit", None, nullable=True),
        offset=reader.integer("offset", None, nullable=True),
    )


def _signed(reader: documents.Reader, key: str, *args: Any, **kwargs: Any) -> Any:
    return reader.integer(
        key, *args, minimum=documents.I64_MIN, maximum=documents.I64_MAX, **kwargs
    )


def _index_uids(reader: documents.Reader) -> tuple[str, ...] | None:
    texts = reader.strings("index_uids", None, nullable=True)
    if texts is None:
        return None
    return tuple(checked_index_uid(reader, "index_uids", text) for text in texts)


def _split_states(reader: documents.Reader) -> tuple[str, ...]:
    states = reader.strings("split_states")
    for state in states:
        if state not in SPLIT_STATES:
            reader.fail(
                f"field `split_states` holds unknown variant `{state}`, expected one of "
                + ", ".join(f"`{known}`" for known in SPLIT_STATES)
            )
    return tuple(dict.fromkeys(states))


def _sort_by(reader: documents.Reader) -> SortBy:
    text = reader.string("sort_by")
    if text not in _SORT_BY:
        reader.fail(
            f"field `sort_by` is unknown variant `{text}`, expected one of "
            + ", ".join(f"`{known}`" for known in _SORT_BY)
        )
    return _SORT_BY[text]


def _after_split(reader: documents.Reader) -> tuple[str, str] | None:
    pair = reader.strings("after_split", None, nullable=True)
    if pair is None:
        return None
    if len(pair) != 2:
        reader.fail(f"field `after_split` holds {len(pair)} elements, expected 2")
    return checked_index_uid(reader, "after_split", pair[0]), pair[1]


def _tagged(reader: documents.Reader, value: object, path: str) -> tuple[str, Any]:
    """Return the name and content of an externally tagged value."""
    if isinstance(value, str):
        return value, None
    if not isinstance(value, dict) or len(value) != 1:
        reader.fail(f"field `{path}` is {documents.shape(value)}, expected an object with one key")
    ((name, content),) = value.items()
    return name, content


def _range(
    reader: documents.Reader, key: str, *, minimum: int, maximum: int = documents.I64_MAX
) -> Range:
    if reader.document.get(key) == _UNBOUNDED:
        return _EVERYTHING
    bounds = reader.object(key)

    def bound(side: str) -> Bound | None:
        name, content = _bound_parts(reader, bounds.get(side), f"{key}.{side}")
        if name == "Unbounded":
            return None
        holder = documents.Reader({name: content}, STRUCT_NAME, f"{key}.{side}.")
        number = holder.integer(name, minimum=minimum, maximum=maximum)
        return Bound(number, is_included=name == "Included")

    return Range(bound("start"), bound("end"))


def _bound_parts(reader: documents.Reader, value: object, path: str) -> tuple[str, Any]:
    name, content = _tagged(reader, value, path)
    if name not in ("Unbounded", "Included", "Excluded"):
        reader.fail(
            f"field `{path}` is unknown variant `{name}`, expected one of `Unbounded`, "
            "`Included`, `Excluded`"
        )
    if (name == "Unbounded") != (content is None):
        reader.fail(f"field `{path}` holds {documents.shape(content)} for `{name}`")
    return name, content


def _mature(reader: documents.Reader) -> Bound | None:
    name, content = _bound_parts(reader, reader.get("mature"), "mature")
    if name == "Unbounded":
        return None
    try:
        seconds = unix_seconds(content)
    except ValueError as error:
        reader.fail(f"field `mature` is no datetime: {error}")
    return Bound(seconds, is_included=name == "Included")


def unix_seconds(value: object) -> int:
    """Return the Unix seconds of a datetime, fractions cut off downwards.

    Accepts `[year, day of year, hour, minute, second, nanosecond, offset h, min, s]` and text like
    `2026-08-21 18:59:03.12 +00:00:00`. `ValueError` on anything else.
    """
    if isinstance(value, str):
        return _text_seconds(value)
    if not isinstance(value, list) or len(value) != 9:
        raise ValueError(f"expected nine integers, got {documents.shape(value)}")
    if not all(isinstance(part, int) and not isinstance(part, bool) for part in value):
        raise ValueError("expected nine integers")
    year, day, hour, minute, second, nanosecond, *offset = value
    days_in_year = 366 if _is_leap(year) else 365
    _check_parts(
        ("year", year, -9999, 9999),
        ("day of year", day, 1, days_in_year),
        ("hour", hour, 0, 23),
        ("minute", minute, 0, 59),
        ("second", second, 0, 59),
        ("nanosecond", nanosecond, 0, 999_999_999),
        ("offset hours", offset[0], -25, 25),
        ("offset minutes", offset[1], -59, 59),
        ("offset seconds", offset[2], -59, 59),
    )
    days = _days_before_year(year) + day - 1 - _EPOCH_DAY
    clock = (hour - offset[0]) * 3600 + (minute - offset[1]) * 60 + second - offset[2]
    seconds: int = days * 86_400 + clock
    return seconds


def _check_parts(*parts: tuple[str, int, int, int]) -> None:
    for name, value, low, high in parts:
        if not low <= value <= high:
            raise ValueError(f"{name} {value} is not between {low} and {high}")


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_before_year(year: int) -> int:
    past = year - 1
    return past * 365 + past // 4 - past // 100 + past // 400


def _text_seconds(text: str) -> int:
    match = _DATETIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{documents.shape(text)} is not like `2026-08-21 18:59:03.12 +00:00:00`")
    year, month, day_of_month, hour, minute, second = (int(match[part]) for part in range(1, 7))
    lengths = [31, 29 if _is_leap(year) else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    _check_parts(("month", month, 1, 12))
    _check_parts(("day", day_of_month, 1, lengths[month - 1]))
    day = sum(lengths[: month - 1]) + day_of_month
    nanosecond = int((match[7] or "0").ljust(9, "0"))
    sign = -1 if match[8] == "-" else 1
    offset = [sign * int(match[part] or 0) for part in (9, 10, 11)]
    return unix_seconds([year, day, hour, minute, second, nanosecond, *offset])


def _tags(reader: documents.Reader) -> TagFilter | None:
    value = reader.get("tags", None, nullable=True)
    # The query itself is the first container.
    return None if value is None else _tag_filter(reader, value, depth=2)


def _tag_filter(reader: documents.Reader, value: object, depth: int) -> TagFilter:
    name, content = _tagged(reader, value, "tags")
    if name == "Tag":
        fields = documents.Reader(content, STRUCT_NAME, "tags.Tag.")
        return Tag(fields.string("tag"), is_present=fields.boolean("is_present"))
    if name not in ("And", "Or"):
        reader.fail(f"field `tags` holds unknown variant `{name}`, expected `And`, `Or` or `Tag`")
    if not isinstance(content, list):
        reader.fail(f"field `tags.{name}` is {documents.shape(content)}, expected a list")
    # Each level is an object and a list; a leaf adds two more objects.
    if depth + 3 > _MAX_DEPTH:
        raise JsonDeserializeError(STRUCT_NAME, "recursion limit exceeded in field `tags`")
    children = tuple(_tag_filter(reader, child, depth + 2) for child in content)
    return TagGroup(name == "Or", children)
