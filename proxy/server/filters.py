"""What a call asked for, as a short text for the logs.

Only fields that are named here are shown: names, states, times and limits. Lists of IDs are
counted. Documents, tokens, tags and search queries are a user's data and stay out, and so does
whatever field a later version adds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from proxy import errors, identifiers
from proxy.proto.quickwit import metastore_pb2
from proxy.routing.catalogue import Rpc

# Characters of the whole text, characters of one value, and values of one list.
MAX_TEXT: Final = 512
_MAX_VALUE: Final = 80
_MAX_ITEMS: Final = 5
# Bytes of a request that are worth decoding for a log line.
_MAX_REQUEST: Final = 1024 * 1024

_METHODS: Final = metastore_pb2.DESCRIPTOR.services_by_name["MetastoreService"].methods_by_name

SHOWN: Final = frozenset(
    {
        "delete_opstamp",
        "enable",
        "end_timestamp",
        "force",
        "index_id",
        "index_id_patterns",
        "index_ids",
        "index_uid",
        "interval_secs",
        "max_age_secs",
        "max_count",
        "num_splits",
        "opstamp_start",
        "overwrite",
        "source_id",
        "start_timestamp",
        "template_id",
    }
)
COUNTED: Final = frozenset(
    {
        "replaced_split_ids",
        "shard_ids",
        "source_configs_json",
        "split_ids",
        "splits_metadata_json",
        "staged_split_ids",
        "subrequests",
        "template_ids",
    }
)
# The JSON query of a list of splits, in either of its two layouts.
QUERY: Final = "query_json"


def describe(rpc: Rpc, request: bytes | Message) -> str:
    """Return the filter of a call in at most `MAX_TEXT` characters; empty if it has none.

    Never raises: what does not parse is said to be so.
    """
    if isinstance(request, bytes):
        if len(request) > _MAX_REQUEST:
            return f"a request of {len(request)} bytes"
        message = GetMessageClass(_METHODS[rpc.name].input_type)()
        try:
            message.ParseFromString(request)
        except DecodeError:
            return "a request that does not parse"
        request = message
    text = " ".join(_fields(request))
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _fields(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        name = field.name
        if name == QUERY:
            yield from _query(value)
        elif name in COUNTED:
            yield f"{name}={len(value)}"
            yield from _of_subrequests(name, value)
        elif name in SHOWN:
            yield f"{name}={_shown(value)}"


def _of_subrequests(name: str, values: Sequence[Any]) -> Iterator[str]:
    if name == "subrequests":
        named = [text for one in values[: _MAX_ITEMS + 1] for text in _index_of(one)]
        if named:
            yield f"indexes={_list(named, len(values))}"


def _index_of(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name in ("index_uid", "index_id"):
            yield _shown(value)
            return


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, Message):
        return _index_uid(value)
    return _list([_short(item) for item in value[:_MAX_ITEMS]], len(value))


def _index_uid(message: Any) -> str:
    try:
        return _short(identifiers.index_uid_text(message))
    except errors.InvalidArgument:
        return f"{_short(message.index_id)}:?"


def _list(shown: Sequence[str], count: int) -> str:
    more = f",+{count - _MAX_ITEMS} more" if count > _MAX_ITEMS else ""
    return f"[{','.join(shown[:_MAX_ITEMS])}{more}]"


def _short(text: str) -> str:
    # Quoted where it could be taken for something else, or break the line.
    plain = text if text.isprintable() and not set(text) & set(' "[],=') else json.dumps(text)
    return plain if len(plain) <= _MAX_VALUE else f"{plain[: _MAX_VALUE - 3]}..."


# The JSON query


def _query(text: str) -> Iterator[str]:
    try:
        query = json.loads(text)
    except (ValueError, RecursionError):
        query = None
    if not isinstance(query, dict):
        yield "query does not parse"
        return
    for key, show in _QUERY_KEYS.items():
        shown = show(query.get(key))
        if shown:
            yield f"{key}={shown}"


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, str):
        return "" if value == "None" else _short(value)
    return str(value)[:_MAX_VALUE] if isinstance(value, int) else ""


def _texts(value: object) -> str:
    if not isinstance(value, list):
        return ""
    return _list([_text(item) or "?" for item in value[:_MAX_ITEMS]], len(value))


def _count(value: object) -> str:
    return str(len(value)) if isinstance(value, list) and value else ""


def _range(value: object) -> str:
    """Show a range with its ends, `[` included and `(` excluded: `[100,200)`."""
    if not isinstance(value, dict):
        return ""
    start, end = _bound(value.get("start")), _bound(value.get("end"))
    if start is None and end is None:
        return ""
    left = "(" if start is None else f"{'[' if start[1] else '('}{start[0]}"
    right = ")" if end is None else f"{end[0]}{']' if end[1] else ')'}"
    return f"{left},{right}"


def _bound(value: object) -> tuple[str, bool] | None:
    if isinstance(value, dict) and len(value) == 1:
        ((kind, number),) = value.items()
        if kind in ("Included", "Excluded") and isinstance(number, int):
            return str(number)[:_MAX_VALUE], kind == "Included"
    return None


def _maturity(value: object) -> str:
    if not isinstance(value, dict) or len(value) != 1:
        return ""
    ((kind, moment),) = value.items()
    word = {"Included": "by", "Excluded": "after"}.get(kind)
    return f"{word} {_short(moment)}" if word is not None and isinstance(moment, str) else ""


def _given(value: object) -> str:
    """Say that there is one, not which: tags hold a user's values."""
    return "" if value is None else "given"


_QUERY_KEYS: Final[Mapping[str, Callable[[object], str]]] = {
    "index_uids": _texts,
    "index_uid": _text,
    "node_id": _text,
    "split_states": _texts,
    "time_range": _range,
    "max_time_range_end": _text,
    "tags": _given,
    **dict.fromkeys(("tag_service", "tag_env", "tag_datacenter", "tag_region", "tag_host"), _given),
    "mature": _maturity,
    "delete_opstamp": _range,
    "update_timestamp": _range,
    "create_timestamp": _range,
    "metric_names": _count,
    "included_split_ids": _count,
    "excluded_split_ids": _count,
    "after_split": _given,
    "after_split_id": _given,
    "sort_by": _text,
    "sort_fields": _text,
    "limit": _text,
    "offset": _text,
}
