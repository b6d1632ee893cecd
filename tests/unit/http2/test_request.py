"""The head of a call: what makes it malformed, and what it says."""

from __future__ import annotations

import pytest

from proxy.http2.faults import StreamFault
from proxy.http2.frames import ErrorCode
from proxy.http2.request import read_request
from tests.support.raw_http2 import HEAD, Field


def head(*fields: Field, without: bytes = b"") -> list[Field]:
    names = {name for name, _ in fields} | {without}
    kept = [field for field in HEAD if field[0] not in names]
    return sorted([*kept, *fields], key=lambda field: field[0][:1] != b":")


def test_a_head_says_what_is_asked() -> None:
    found = read_request(
        head(
            (b"grpc-timeout", b"10S"),
            (b"grpc-encoding", b"gzip"),
            (b"grpc-accept-encoding", b"gzip"),
            (b"content-length", b"12"),
            (b"user-agent", b"tonic"),
            (b"x-bin", b"AA"),
            (b"x-id", b"1"),
            (b"x-id", b"2"),
        )
    )
    assert (found.path, found.timeout, found.encoding) == ("/t.T/Echo", 10.0, "gzip")
    assert (found.content_length, found.http_status, found.problem) == (12, 200, "")
    assert found.metadata == (
        ("user-agent", "tonic"),
        ("x-bin", b"\0"),
        ("x-id", "1"),
        ("x-id", "2"),
    )


def test_the_size_is_counted_as_the_rfc_does() -> None:
    assert read_request(HEAD).size == sum(len(name) + len(value) + 32 for name, value in HEAD)


MALFORMED: dict[str, list[Field]] = {
    "no method": head(without=b":method"),
    "no path": head(without=b":path"),
    "no scheme": head(without=b":scheme"),
    "an empty path": head((b":path", b"")),
    "an unknown pseudo field": head((b":status", b"200")),
    "a pseudo field twice": [*head(), (b":path", b"/a")],
    "the path twice": [(b":path", b"/a"), *head()],
    "a pseudo field behind metadata": [(b"x", b"1"), *head()],
    "a pseudo field behind another": [(b"te", b"trailers"), *head(without=b"te")],
    "upper case": head((b"X-Id", b"1")),
    "a name with a space": head((b"x id", b"1")),
    "a name with a colon": head((b"x:id", b"1")),
    "a name with a line break": head((b"x\nid", b"1")),
    "a name beyond ASCII": head((b"x\xff", b"1")),
    "no name": head((b"", b"1")),
    "a value with a line break": head((b"x", b"1\nauthorization: y")),
    "a value with a return": head((b"x", b"1\r")),
    "a value with a zero": head((b"x", b"\0")),
    "connection": head((b"connection", b"close")),
    "keep-alive": head((b"keep-alive", b"1")),
    "proxy-connection": head((b"proxy-connection", b"x")),
    "transfer-encoding": head((b"transfer-encoding", b"chunked")),
    "upgrade": head((b"upgrade", b"h2c")),
    "te": head((b"te", b"gzip")),
    "a length that is no number": head((b"content-length", b"-1")),
    "a length of many digits": head((b"content-length", b"1" * 19)),
    "an empty length": head((b"content-length", b"")),
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_head_is_a_fault_of_its_stream(fields: list[Field]) -> None:
    with pytest.raises(StreamFault) as fault:
        read_request(fields)
    assert fault.value.code is ErrorCode.PROTOCOL_ERROR


def test_a_fault_shows_no_value() -> None:
    with pytest.raises(StreamFault) as fault:
        read_request(head((b"authorization", b"s3cr3t\n")))
    assert "s3cr3t" not in str(fault.value)


PROBLEMS = {
    "a deadline": ((b"grpc-timeout", b"1s"), "the deadline `grpc-timeout` is malformed: '1s'"),
    "bytes": ((b"x-bin", b"*"), "the metadata 'x-bin' is malformed"),
}


@pytest.mark.parametrize(("field", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_gRPC_calls_malformed_is_told_in_a_status(field: Field, problem: str) -> None:
    assert read_request(head(field)).problem == problem


STATUSES = {
    (b"POST", b"application/grpc"): 200,
    (b"POST", b"application/grpc+proto"): 200,
    (b"POST", b"application/grpc;charset=utf-8"): 200,
    (b"POST", b"application/grpc-web"): 415,
    (b"POST", b"application/json"): 415,
    (b"POST", b""): 415,
    (b"GET", b"application/grpc"): 405,
}


@pytest.mark.parametrize(("asked", "status"), STATUSES.items())
def test_what_is_no_gRPC_gets_a_status_of_HTTP(asked: tuple[bytes, bytes], status: int) -> None:
    fields = head((b":method", asked[0]), (b"content-type", asked[1]))
    assert read_request(fields).http_status == status
    if status == 415:
        assert read_request(head(without=b"content-type")).http_status == 415
