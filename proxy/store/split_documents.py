"""Split documents: what StageSplits stores, and the `Split` that readers get, spliced from rows.

Facts: a `SplitMetadata` document is tagged `0.7`, `0.8` or `0.9` (one layout); the writer always
emits all keys in one order, compact, tagged `0.9`. In a `Split` the columns `split_state`,
`update_timestamp`, `publish_timestamp`, `create_timestamp`, `index_uid` and `delete_opstamp` win
over the stored document; everything else comes from the document.

Documents in the writer's own form are recognised by patterns and never parsed: a list of splits is
mostly such documents. Any other form takes the slow path through the JSON parser.

Facts: the schema computes a column from the stored text as JSON, so that whatever is stored is
valid JSON, whoever wrote it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from proxy import identifiers
from proxy.errors import InvalidArgument, JsonDeserializeError
from proxy.store import documents

STAGED_STRUCT: Final = "alloc::vec::Vec<quickwit_metastore::split_metadata::SplitMetadata>"
STORED_STRUCT: Final = "SplitMetadata"
STATE_STRUCT: Final = "SplitState"
UNKNOWN: Final = "unknown"
_MAX_NODE_ID_CHARS: Final = 253

_VERSIONS: Final = ("0.7", "0.8", "0.9")
_VERSION_KEY: Final = '"version":"0.9"'

# These patterns cover a document that is to be staged from its first to its last byte, except for
# the tags. They accept less than JSON does (no escapes, no numbers near 64 bits): the rest is for
# the slow path.
_TEXT: Final = r'[^"\\\x00-\x1f]*'
_COUNT: Final = r"(?:0|[1-9][0-9]{0,17})"
_SIGNED: Final = r"(?:0|-?[1-9][0-9]{0,17})"
# A partition ID is a hash of 64 bits, so most have 19 or 20 digits; the largest few are left out.
_HASH: Final = (
    r"(?:1[0-7][0-9]{18}|(?:0|[1-9][0-9]{0,18}+)|18[0-3][0-9]{17}|184[0-3][0-9]{16}"
    r"|1844[0-5][0-9]{15}|18446[0-6][0-9]{14})"
)
_ULID: Final = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
_IS_CANONICAL_UID: Final = re.compile(rf"[^:]*:{_ULID}").fullmatch
_HEAD: Final = re.compile(
    r'\{"version":"(?P<version>0\.[789])"'
    rf',"split_id":"(?P<split_id>{_TEXT})"'
    rf',"index_uid":"(?P<index_uid>[^":\\\x00-\x1f]*:{_ULID})"'
    rf',"partition_id":{_HASH}'
    rf',"source_id":"{_TEXT}"'
    r',"node_id":"(?P<node_id>[^"/\\\x00-\x1f]*)"'
    rf',"num_docs":{_COUNT}'
    rf',"uncompressed_docs_size_in_bytes":{_COUNT}'
    rf',"time_range":(?:null|\{{"start":(?P<start>{_SIGNED}),"end":(?P<end>{_SIGNED})\}})'
    rf',"create_timestamp":(?P<created>{_SIGNED})'
    r',"maturity":\{"type":"(?:mature"'
    rf'|immature","maturation_period_millis":(?P<period>{_COUNT}))\}}'
    r',"tags":\['
)
_TAGS: Final = re.compile(rf'\["{_TEXT}"(?:,"{_TEXT}")*\]')
# Characters of a document after its delete opstamp, if its doc mapping UID is among them.
_MAPPING_CHARS: Final = len(',"doc_mapping_uid":""') + 26
_TAIL_START: Final = '],"footer_offsets":{'
_TAIL: Final = re.compile(
    rf'\],"footer_offsets":\{{"start":{_COUNT},"end":{_COUNT}\}}'
    rf',"delete_opstamp":(?P<opstamp>{_COUNT})'
    rf',"num_merge_ops":{_COUNT}'
    rf'(?P<mapping>,"doc_mapping_uid":"{_ULID}")?\}}'
)

# A stored document, which is valid JSON. A quote that this takes for the end of a string is
# followed by `,"` and a key; had it been an escaped one, that `"` would end the string and the key
# be bare. So strings need no look at their escapes, the tags none at all, and numbers have no
# leading zeros. Everything has one way to match: a document in another form fails soon.
_ANY: Final = r'[^"]*+'
_DIGITS: Final = r"[0-9]{1,18}+"
_STORED: Final = re.compile(
    rf'\{{"version":"0\.[789](","split_id":"{_ANY}","index_uid":"){_ANY}'
    rf'(","partition_id":{_HASH}'
    rf',"source_id":"{_ANY}"'
    r',"node_id":"[^"/\\]*+"'
    rf',"num_docs":{_DIGITS}'
    rf',"uncompressed_docs_size_in_bytes":{_DIGITS}'
    rf',"time_range":(?:\{{"start":-?{_DIGITS},"end":-?{_DIGITS}\}}|null)'
    rf',"create_timestamp":)-?{_DIGITS}'
    r'(,"maturity":\{"type":"(?:immature"'
    rf',"maturation_period_millis":{_DIGITS}|mature")\}}'
    rf',"tags":\[.*\],"footer_offsets":\{{"start":{_DIGITS},"end":{_DIGITS}\}}'
    rf',"delete_opstamp":){_DIGITS}'
    rf'(,"num_merge_ops":{_DIGITS}(?:,"doc_mapping_uid":"(?:0{{26}}|{_ULID})")?+)\}}'
).fullmatch


@dataclass(frozen=True, slots=True)
class StagedSplit:
    """One split to stage: its canonical document and the columns derived from it.

    `maturity_timestamp` is in Unix seconds, 0 for a mature split.
    """

    split_id: str
    time_range_start: int | None
    time_range_end: int | None
    tags_json: str
    metadata_json: str
    delete_opstamp: int
    maturity_timestamp: int
    node_id: str


def parse_staged(text: str, *, now: int) -> list[StagedSplit]:
    """Return the splits of a StageSplits request; `now` (Unix seconds) fills `create_timestamp`.

    `JsonDeserializeError` when the text is not a list of split documents; `InvalidArgument` when
    a value is one that PostgreSQL cannot store.
    """
    recognised = _recognise_all(text)
    if recognised is not None:
        return recognised
    value = documents.parse(text, STAGED_STRUCT)
    if not isinstance(value, list):
        raise JsonDeserializeError(
            STAGED_STRUCT, f"invalid type: {documents.shape(value)}, expected a list of splits"
        )
    return [_staged(canonical(element, STAGED_STRUCT, now=now)) for element in value]


def _recognise_all(text: str) -> list[StagedSplit] | None:
    """Return the splits of a compact list in the writer's form, or None if it is in another."""
    if not text.startswith("[{"):
        return [] if text == "[]" else None
    splits: list[StagedSplit] = []
    position = 0
    while text[position] in "[,":
        found = _recognise(text, position + 1)
        if found is None:
            return None
        split, position = found
        splits.append(split)
        if position == len(text):
            return None
    return splits if text[position:] == "]" else None


def _recognise(text: str, position: int) -> tuple[StagedSplit, int] | None:
    head = _HEAD.match(text, position)
    if head is None or head["version"] != "0.9":
        return None
    tags_end = text.find(_TAIL_START, head.end())
    tail = _TAIL.match(text, tags_end) if tags_end >= 0 else None
    if tail is None or tail["mapping"] is None:
        return None
    if len(head["node_id"]) > _MAX_NODE_ID_CHARS:
        return None
    tags_json = f"[{text[head.end() : tags_end]}]"
    if tags_json != "[]" and not _is_canonical_tags(tags_json):
        return None
    start, end, period = head.group("start", "end", "period")
    split = StagedSplit(
        split_id=head["split_id"],
        time_range_start=None if start is None else int(start),
        time_range_end=None if end is None else int(end),
        tags_json=tags_json,
        metadata_json=text[position : tail.end()],
        delete_opstamp=int(tail["opstamp"]),
        maturity_timestamp=_maturity_timestamp(
            int(head["created"]), None if period is None else int(period)
        ),
        node_id=head["node_id"],
    )
    return split, tail.end()


def _is_canonical_tags(tags_json: str) -> bool:
    """Whether a list is plain strings without escapes, compact, sorted and distinct."""
    if not _TAGS.fullmatch(tags_json):
        return False
    tags = tags_json[2:-2].split('","')
    return all(map(operator.lt, tags, tags[1:]))


def canonical(value: object, struct_name: str, *, now: int) -> documents.Document:
    """Return a split document with all its keys, tagged `0.9`; unknown keys are dropped.

    `JsonDeserializeError` with `struct_name` naming the first field that is wrong.
    """
    reader = documents.Reader(value, struct_name)
    version = reader.string("version")
    if version not in _VERSIONS:
        reader.fail(
            f"field `version` is unknown variant `{version}`, expected `0.9`, `0.8` or `0.7`"
        )
    return {
        "version": "0.9",
        "split_id": reader.string("split_id"),
        "index_uid": _index_uid(reader),
        "partition_id": reader.integer("partition_id", 0),
        "source_id": reader.string("source_id", UNKNOWN, nullable=True),
        "node_id": _node_id(reader),
        "num_docs": reader.integer("num_docs"),
        "uncompressed_docs_size_in_bytes": reader.integer(
            _aliased(reader, "uncompressed_docs_size_in_bytes", "size_in_bytes")
        ),
        "time_range": _time_range(reader),
        "create_timestamp": reader.integer(
            "create_timestamp", now, minimum=documents.I64_MIN, maximum=documents.I64_MAX
        ),
        "maturity": _maturity(reader),
        "tags": sorted(set(reader.strings("tags", []))),
        "footer_offsets": _footer_offsets(reader),
        "delete_opstamp": reader.integer("delete_opstamp", 0),
        "num_merge_ops": reader.integer("num_merge_ops", 0),
        "doc_mapping_uid": _doc_mapping_uid(reader),
    }


def _aliased(reader: documents.Reader, key: str, alias: str) -> str:
    if alias not in reader.document:
        return key
    if key in reader.document:
        reader.fail(f"duplicate field `{key}`")
    return alias


def _index_uid(reader: documents.Reader) -> str:
    key = _aliased(reader, "index_uid", "index_id")
    return checked_index_uid(reader, key, reader.string(key))


def checked_index_uid(reader: documents.Reader, key: str, text: str) -> str:
    """Return an index UID with its ULID in upper case; the reader's error names `key`."""
    if _IS_CANONICAL_UID(text):
        return text
    index_id, colon, ulid = text.partition(":")
    try:
        if not colon:
            raise ValueError("no incarnation")
        return f"{index_id}:{identifiers.encode_ulid(identifiers.decode_ulid(ulid))}"
    except ValueError:
        reader.fail(f"field `{key}` holds invalid index UID `{text}`")


def _node_id(reader: documents.Reader) -> str:
    text: str = reader.string("node_id", UNKNOWN, nullable=True)
    node_id, slash, _ = text.rpartition("/")
    return node_id if slash else text


def _check_node_id(node_id: str) -> None:
    if len(node_id) > _MAX_NODE_ID_CHARS:
        raise InvalidArgument(
            f"field `node_id` of a split must have at most {_MAX_NODE_ID_CHARS} characters, "
            f"got {len(node_id)}"
        )


def _time_range(reader: documents.Reader) -> documents.Document | None:
    bounds = reader.object("time_range", None, nullable=True)
    if bounds is None:
        return None
    bounds.deny_unknown(frozenset({"start", "end"}))
    return {
        key: bounds.integer(key, minimum=documents.I64_MIN, maximum=documents.I64_MAX)
        for key in ("start", "end")
    }


def _footer_offsets(reader: documents.Reader) -> documents.Document:
    offsets = reader.object("footer_offsets")
    offsets.deny_unknown(frozenset({"start", "end"}))
    return {key: offsets.integer(key) for key in ("start", "end")}


def _maturity(reader: documents.Reader) -> documents.Document:
    if "maturity" not in reader.document:
        return {"type": "mature"}
    maturity = reader.object("maturity")
    kind = maturity.string("type")
    if kind == "mature":
        return {"type": "mature"}
    if kind != "immature":
        reader.fail(
            f"field `maturity.type` is unknown variant `{kind}`, expected `mature` or `immature`"
        )
    return {
        "type": "immature",
        "maturation_period_millis": maturity.integer("maturation_period_millis"),
    }


def _doc_mapping_uid(reader: documents.Reader) -> str:
    text = reader.string("doc_mapping_uid", identifiers.NIL_ULID)
    try:
        return identifiers.encode_ulid(identifiers.decode_ulid(text))
    except ValueError:
        reader.fail(f"field `doc_mapping_uid` holds invalid doc mapping UID `{text}`")


def _maturity_timestamp(created: int, period_millis: int | None) -> int:
    if period_millis is None:
        return 0
    # A sum past 64 bits stays past what PostgreSQL accepts as a timestamp.
    return min(created + period_millis // 1000, documents.I64_MAX)


def _staged(document: documents.Document) -> StagedSplit:
    time_range = document["time_range"] or {}
    _check_node_id(document["node_id"])
    _check_bigint("delete_opstamp", document["delete_opstamp"])
    _check_bigint("footer_offsets.end", document["footer_offsets"]["end"])
    for tag in document["tags"]:
        if "\0" in tag:
            raise InvalidArgument("field `tags` of a split holds a NUL character, remove it")
    return StagedSplit(
        split_id=document["split_id"],
        time_range_start=time_range.get("start"),
        time_range_end=time_range.get("end"),
        tags_json=documents.dump(document["tags"]),
        metadata_json=documents.dump(document),
        delete_opstamp=document["delete_opstamp"],
        maturity_timestamp=_maturity_timestamp(
            document["create_timestamp"], document["maturity"].get("maturation_period_millis")
        ),
        node_id=document["node_id"],
    )


def _check_bigint(field: str, value: int) -> None:
    if value > documents.I64_MAX:
        raise InvalidArgument(
            f"field `{field}` of a split must be at most {documents.I64_MAX}, got {value}"
        )


def render_split(row: Iterable[str]) -> str:
    """Return the JSON text of a `Split` from the columns that `splits/list` selects, in order.

    A document in the writer's form is spliced without parsing. `JsonDeserializeError` when the
    state is unknown or a document in another form is not a split document.
    """
    head, create_timestamp, index_uid, delete_opstamp, metadata_json = row
    if head[0] != "{":
        raise JsonDeserializeError(STATE_STRUCT, f"unknown split state `{head[1:]}`")
    found = _STORED(metadata_json)
    if found is None:
        rest = _reread(metadata_json, int(create_timestamp), index_uid, int(delete_opstamp))
        return f"{head},{_VERSION_KEY}{rest}"
    to_uid, to_created, to_opstamp, end = found.groups()
    if len(end) < _MAPPING_CHARS:
        end = f'{end},"doc_mapping_uid":"{identifiers.NIL_ULID}"'
    return (
        f'{head},"version":"0.9{to_uid}{_checked(index_uid)}{to_created}{create_timestamp}'
        f"{to_opstamp}{delete_opstamp}{end}}}"
    )


def _reread(metadata_json: str, create_timestamp: int, index_uid: str, delete_opstamp: int) -> str:
    """Return the members after `version` of a document that is not in the writer's form."""
    value = documents.parse(metadata_json, STORED_STRUCT, is_stored=True)
    if isinstance(value, dict):
        _checked(index_uid)
        value.pop("index_id", None)
        value["index_uid"] = index_uid
    document = canonical(value, STORED_STRUCT, now=create_timestamp)
    document["create_timestamp"] = create_timestamp
    document["delete_opstamp"] = delete_opstamp
    return documents.dump(document).removeprefix("{" + _VERSION_KEY)


@lru_cache(maxsize=4096)
def _checked(index_uid: str) -> str:
    """Return an `index_uid` column as the inside of a JSON string; it has few distinct values."""
    try:
        identifiers.index_uid_message(index_uid)
    except ValueError as error:
        raise JsonDeserializeError("IndexUid", f"invalid index UID `{index_uid}`") from error
    return documents.dump(index_uid)[1:-1]
