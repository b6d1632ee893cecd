"""Errors from the wire: every variant, and what is none."""

from __future__ import annotations

import json

import grpc
import pytest

from proxy import errors
from proxy.client.wire import decode_error, is_backend_failure, is_shed, read_failure
from proxy.errors import MetastoreError

VARIANTS = [
    (b'{"AlreadyExists":{"index":{"index_id":"web-logs"}}}', "index `web-logs` already exist(s)"),
    (b'{"Connection":{"message":"no route"}}', "connection error: no route"),
    (b'{"Db":{"message":"deadlock detected"}}', "database error: deadlock detected"),
    (
        (
            b'{"FailedPrecondition":{"entity":{"splits":{"split_ids":["s1","s2"]}},'
            b'"message":"splits are not staged"}}'
        ),
        "precondition failed for splits `s1, s2`: splits are not staged",
    ),
    (b'{"Forbidden":{"message":"read-only"}}', "access forbidden: read-only"),
    (b'{"Internal":{"message":"boom","cause":"x"}}', "internal error: boom; cause: `x`"),
    (b'{"InvalidArgument":{"message":"bad"}}', "invalid argument: bad"),
    (b'{"InvalidPublishToken":{"queue_id":"q/s/1"}}', "invalid publish token for shard `q/s/1`"),
    (b'{"Io":{"message":"eof"}}', "IO error: eof"),
    (
        b'{"JsonDeserializeError":{"struct_name":"IndexMetadata","message":"missing field"}}',
        "failed to deserialize `IndexMetadata` from JSON: missing field",
    ),
    (
        b'{"JsonSerializeError":{"struct_name":"X","message":"m"}}',
        "failed to serialize `X` to JSON: m",
    ),
    (
        b'{"NotFound":{"source":{"index_id":"web-logs","source_id":"kafka-a"}}}',
        "source `web-logs/kafka-a` not found",
    ),
    (b'{"Timeout":"client"}', "request timed out: client"),
    (b'"TooManyRequests"', "too many requests"),
    (b'{"Unavailable":"starting"}', "service unavailable: starting"),
]
ENTITIES = [
    ({"checkpoint_delta": {"index_id": "i", "source_id": "s"}}, "checkpoint delta `i/s`"),
    ({"index": {"index_id": "i"}}, "index `i`"),
    ({"indexes": {"index_ids": ["i", "j"]}}, "indexes `i, j`"),
    ({"source": {"index_id": "i", "source_id": "s"}}, "source `i/s`"),
    ({"shard": {"queue_id": "i:u/s/1"}}, "shard `i:u/s/1`"),
    ({"split": {"split_id": "x"}}, "split `x`"),
    ({"splits": {"split_ids": ["x", "y"]}}, "splits `x, y`"),
    ({"index_template": {"template_id": "t"}}, "index template `t`"),
]


@pytest.mark.parametrize(("raw", "text"), VARIANTS)
def test_every_variant_is_read_back(raw: bytes, text: str) -> None:
    error = decode_error(raw)
    assert str(error) == text
    assert error.to_json() == raw
    assert type(error).__name__ == error.variant


def test_the_variants_are_all() -> None:
    known = {type(decode_error(raw)) for raw, _ in VARIANTS}
    leaves: set[type] = set()
    todo: list[type] = [MetastoreError]
    while todo:
        subclasses = (kind := todo.pop()).__subclasses__()
        todo.extend(subclasses)
        if not subclasses:
            leaves.add(kind)
    assert known == leaves


@pytest.mark.parametrize(("entity", "text"), ENTITIES)
def test_every_entity_is_read_back(entity: dict[str, object], text: str) -> None:
    error = decode_error(json.dumps({"NotFound": entity}).encode())
    assert str(error) == f"{text} not found"
    assert json.loads(error.to_json()) == {"NotFound": entity}


def test_fields_that_a_newer_server_adds_are_ignored() -> None:
    error = decode_error(b'{"Db":{"message":"x","sqlstate":"40001"}}')
    assert error.to_json() == b'{"Db":{"message":"x"}}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"17",
        b'"Db"',
        b'"Unheard"',
        b'{"Unheard":{}}',
        b'{"Db":"text"}',
        b'{"Db":{"message":1}}',
        b'{"Db":{"message":"x"},"Io":{"message":"x"}}',
        b'{"Timeout":{"message":"x"}}',
        b'{"TooManyRequests":{}}',
        b'{"NotFound":{"index":{}}}',
        b'{"NotFound":{"planet":{"id":"x"}}}',
        b'{"NotFound":{"indexes":{"index_ids":"x"}}}',
        b'{"NotFound":{"indexes":{"index_ids":[1]}}}',
        b'{"FailedPrecondition":{"message":"x"}}',
        b'{"Internal":{"message":"x"}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_error_is_internal(raw: bytes) -> None:
    error = decode_error(raw)
    assert isinstance(error, errors.Internal)
    assert error.message.startswith(
        "failed to deserialize error returned from server "
        "(this can happen during rolling upgrades): "
    )
    assert error.cause == ""


def failed(
    code: grpc.StatusCode, details: str = "text", *metadata: tuple[str, str | bytes]
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details=details
    )


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_without_detail_the_code_decides(code: grpc.StatusCode) -> None:
    expected: dict[str, type[MetastoreError]] = {
        "CANCELLED": errors.Timeout,
        "DEADLINE_EXCEEDED": errors.Timeout,
        "UNAVAILABLE": errors.Unavailable,
    }
    failure = read_failure(failed(code))
    assert type(failure.error) is expected.get(code.name, errors.Internal)
    assert "text" in str(failure.error)
    assert failure.code.name == code.name
    assert not failure.is_explicit


def test_detail_counts_whatever_the_code_says() -> None:
    detail = b'{"Forbidden":{"message":"m"}}'
    failure = read_failure(failed(grpc.StatusCode.UNAVAILABLE, "x", ("qw-error-bin", detail)))
    assert isinstance(failure.error, errors.Forbidden)
    assert failure.is_explicit
    assert not is_backend_failure(failure)


def test_a_call_that_was_one_too_many_is_another_backends_chance() -> None:
    error = failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "x", ("qw-error-bin", b'"TooManyRequests"'))
    assert is_shed(read_failure(error))
    assert is_backend_failure(read_failure(error))
    assert not is_shed(read_failure(failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "x")))


def test_a_status_without_text_is_named_by_its_code() -> None:
    error = read_failure(failed(grpc.StatusCode.DATA_LOSS, "")).error
    assert str(error) == "internal error: data loss; cause: ``"


@pytest.mark.parametrize(
    ("code", "is_backend"),
    [
        ("UNAVAILABLE", True),
        ("CANCELLED", True),
        ("INTERNAL", True),
        ("DEADLINE_EXCEEDED", True),
        ("UNIMPLEMENTED", True),
        ("RESOURCE_EXHAUSTED", False),
        ("OUT_OF_RANGE", False),
        ("PERMISSION_DENIED", False),
        ("UNAUTHENTICATED", False),
        ("INVALID_ARGUMENT", False),
    ],
)
def test_which_bare_codes_are_the_backend_s_fault(code: str, is_backend: bool) -> None:
    assert is_backend_failure(read_failure(failed(grpc.StatusCode[code]))) is is_backend
