"""Every error variant and entity kind against literal bytes, texts and codes of the protocol."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.errors import Code

SHARD = "web-logs:01J5ZQ3V7Y8M4N6P2R9S0T1VWX/_ingest-source/01J5ZQ"

VARIANTS = [
    (
        errors.AlreadyExists(errors.index("web-logs")),
        b'{"AlreadyExists":{"index":{"index_id":"web-logs"}}}',
        "index `web-logs` already exist(s)",
        Code.ALREADY_EXISTS,
        False,
        True,
    ),
    (
        errors.Connection("no route"),
        b'{"Connection":{"message":"no route"}}',
        "connection error: no route",
        Code.INTERNAL,
        True,
        False,
    ),
    (
        errors.Db("deadlock detected"),
        b'{"Db":{"message":"deadlock detected"}}',
        "database error: deadlock detected",
        Code.INTERNAL,
        True,
        False,
    ),
    (
        errors.FailedPrecondition(errors.splits(["s1", "s2"]), "splits are not staged"),
        (
            b'{"FailedPrecondition":{"entity":{"splits":{"split_ids":["s1","s2"]}},'
            b'"message":"splits are not staged"}}'
        ),
        "precondition failed for splits `s1, s2`: splits are not staged",
        Code.INVALID_ARGUMENT,
        False,
        True,
    ),
    (
        errors.Forbidden("read-only"),
        b'{"Forbidden":{"message":"read-only"}}',
        "access forbidden: read-only",
        Code.PERMISSION_DENIED,
        False,
        True,
    ),
    (
        errors.Internal("boom", "x"),
        b'{"Internal":{"message":"boom","cause":"x"}}',
        "internal error: boom; cause: `x`",
        Code.INTERNAL,
        True,
        False,
    ),
    (
        errors.InvalidArgument("bad"),
        b'{"InvalidArgument":{"message":"bad"}}',
        "invalid argument: bad",
        Code.INVALID_ARGUMENT,
        False,
        True,
    ),
    (
        errors.InvalidPublishToken(SHARD),
        b'{"InvalidPublishToken":{"queue_id":"%s"}}' % SHARD.encode(),
        f"invalid publish token for shard `{SHARD}`",
        Code.INVALID_ARGUMENT,
        False,
        True,
    ),
    (
        errors.Io("eof"),
        b'{"Io":{"message":"eof"}}',
        "IO error: eof",
        Code.INTERNAL,
        True,
        False,
    ),
    (
        errors.JsonDeserializeError("IndexMetadata", "missing field"),
        b'{"JsonDeserializeError":{"struct_name":"IndexMetadata","message":"missing field"}}',
        "failed to deserialize `IndexMetadata` from JSON: missing field",
        Code.INTERNAL,
        False,
        True,
    ),
    (
        errors.JsonSerializeError("X", "m"),
        b'{"JsonSerializeError":{"struct_name":"X","message":"m"}}',
        "failed to serialize `X` to JSON: m",
        Code.INTERNAL,
        False,
        True,
    ),
    (
        errors.NotFound(errors.source("web-logs", "kafka-a")),
        b'{"NotFound":{"source":{"index_id":"web-logs","source_id":"kafka-a"}}}',
        "source `web-logs/kafka-a` not found",
        Code.NOT_FOUND,
        False,
        True,
    ),
    (
        errors.Timeout("client"),
        b'{"Timeout":"client"}',
        "request timed out: client",
        Code.DEADLINE_EXCEEDED,
        True,
        False,
    ),
    (
        errors.TooManyRequests(),
        b'"TooManyRequests"',
        "too many requests",
        Code.RESOURCE_EXHAUSTED,
        False,
        True,
    ),
    (
        errors.Unavailable("starting"),
        b'{"Unavailable":"starting"}',
        "service unavailable: starting",
        Code.UNAVAILABLE,
        True,
        False,
    ),
]

ENTITIES = [
    (
        errors.checkpoint_delta("i", "s"),
        b'{"NotFound":{"checkpoint_delta":{"index_id":"i","source_id":"s"}}}',
        "checkpoint delta `i/s` not found",
    ),
    (errors.index("i"), b'{"NotFound":{"index":{"index_id":"i"}}}', "index `i` not found"),
    (
        errors.indexes(["i", "j"]),
        b'{"NotFound":{"indexes":{"index_ids":["i","j"]}}}',
        "indexes `i, j` not found",
    ),
    (
        errors.source("i", "s"),
        b'{"NotFound":{"source":{"index_id":"i","source_id":"s"}}}',
        "source `i/s` not found",
    ),
    (
        errors.shard("i:0/s/1"),
        b'{"NotFound":{"shard":{"queue_id":"i:0/s/1"}}}',
        "shard `i:0/s/1` not found",
    ),
    (errors.split("x"), b'{"NotFound":{"split":{"split_id":"x"}}}', "split `x` not found"),
    (
        errors.splits(["x", "y"]),
        b'{"NotFound":{"splits":{"split_ids":["x","y"]}}}',
        "splits `x, y` not found",
    ),
    (
        errors.index_template("t"),
        b'{"NotFound":{"index_template":{"template_id":"t"}}}',
        "index template `t` not found",
    ),
]


@pytest.mark.parametrize(
    ("error", "payload", "text", "code", "retryable", "aborted"),
    VARIANTS,
    ids=[type(row[0]).__name__ for row in VARIANTS],
)
def test_a_variant_has_the_wire_form_of_the_protocol(
    error: errors.MetastoreError,
    payload: bytes,
    text: str,
    code: Code,
    retryable: bool,
    aborted: bool,
) -> None:
    assert error.to_json() == payload
    assert str(error) == text
    assert error.code is code
    assert error.is_retryable is retryable
    assert error.is_certainly_aborted is aborted


def test_every_variant_is_in_the_table() -> None:
    def leaves(kind: type[errors.MetastoreError]) -> set[type[errors.MetastoreError]]:
        below = kind.__subclasses__()
        return set().union(*map(leaves, below)) if below else {kind}

    assert leaves(errors.MetastoreError) == {type(row[0]) for row in VARIANTS}


@pytest.mark.parametrize(("entity", "payload", "text"), ENTITIES, ids=[e[0].kind for e in ENTITIES])
def test_an_entity_kind_has_the_wire_form_of_the_protocol(
    entity: errors.Entity, payload: bytes, text: str
) -> None:
    error = errors.NotFound(entity)
    assert error.to_json() == payload
    assert str(error) == text


def test_non_ascii_text_is_not_escaped() -> None:
    assert errors.Io("übel ☃").to_json() == '{"Io":{"message":"übel ☃"}}'.encode()


def test_a_thousand_split_ids_are_cut_to_what_peers_accept() -> None:
    ids = [f"01J5ZQ5B0C1D2E3F4G5H6{number:05}" for number in range(1000)]
    error = errors.FailedPrecondition(errors.splits(ids), "splits are not staged")
    listed = json.loads(error.to_json())["FailedPrecondition"]["entity"]["splits"]["split_ids"]
    assert listed[:2] == ids[:2]
    assert listed[-1] == f"... and {1000 - len(listed) + 1} more"
    assert len(error.to_json()) + len(str(error)) < 4096


def test_a_long_text_is_cut_between_characters() -> None:
    error = errors.InvalidArgument("ü" * 5000)
    assert error.message.endswith("... (10000 bytes)")
    assert error.message.startswith("ü" * 500)
    assert len(error.to_json()) < 1200


def test_a_lone_surrogate_cannot_break_the_encoding() -> None:
    assert errors.InvalidArgument("\ud800").to_json() == b'{"InvalidArgument":{"message":"?"}}'
