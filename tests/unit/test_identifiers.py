"""ULIDs, index UIDs, identifiers and index patterns."""

from __future__ import annotations

import pytest

from proxy import errors, identifiers
from proxy.proto.quickwit import common_pb2

ULID = "01J5ZQ3V7Y8M4N6P2R9S0T1VWX"


def test_a_ulid_survives_its_wire_form() -> None:
    raw = identifiers.decode_ulid(ULID)
    assert len(raw) == 16
    assert identifiers.encode_ulid(raw) == ULID


def test_known_ulids() -> None:
    assert identifiers.decode_ulid("0" * 26) == bytes(16)
    assert identifiers.decode_ulid("7" + "Z" * 25) == b"\xff" * 16
    assert identifiers.decode_ulid("0" * 25 + "1") == bytes(15) + b"\x01"
    assert identifiers.encode_ulid(bytes(15) + b"\x20") == "0" * 24 + "10"


def test_lower_case_is_read() -> None:
    assert identifiers.decode_ulid(ULID.lower()) == identifiers.decode_ulid(ULID)


@pytest.mark.parametrize(
    "text", ["", ULID[:-1], ULID + "0", "I" + ULID[1:], "L" + ULID[1:], "8" + "0" * 25, "u" * 26]
)
def test_what_is_not_a_ulid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ULID"):
        identifiers.decode_ulid(text)


def test_new_ulids_differ_and_sort_by_time() -> None:
    ulids = [identifiers.new_ulid() for _ in range(50)]
    assert len(set(ulids)) == 50
    assert [ulid[:10] for ulid in ulids] == sorted(ulid[:10] for ulid in ulids)


def test_index_uid_text() -> None:
    uid = identifiers.index_uid_message(f"web-logs:{ULID}")
    assert identifiers.index_uid_text(uid) == f"web-logs:{ULID}"
    nil = common_pb2.IndexUid(index_id="web-logs")
    assert identifiers.index_uid_text(nil) == "web-logs:00000000000000000000000000"


@pytest.mark.parametrize("length", [1, 15, 17, 26])
def test_an_incarnation_of_another_length_is_refused_by_name(length: int) -> None:
    uid = common_pb2.IndexUid(index_id="web-logs", incarnation_id=bytes(length))
    with pytest.raises(errors.InvalidArgument, match=r"index_uid\.incarnation_id.*16 bytes"):
        identifiers.index_uid_text(uid)


@pytest.mark.parametrize("index_id", ["", "a:b"])
def test_an_index_id_that_cannot_be_in_a_uid_is_refused(index_id: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"index_uid\.index_id"):
        identifiers.index_uid_text(common_pb2.IndexUid(index_id=index_id))


@pytest.mark.parametrize("text", ["web-logs", ":" + ULID, "web-logs:", "web-logs:abc"])
def test_what_is_not_an_index_uid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"index UID|ULID"):
        identifiers.index_uid_message(text)


@pytest.mark.parametrize("value", ["abc", "a-_.", "A" * 255, "a0123"])
def test_identifiers(value: str) -> None:
    assert identifiers.identifier_problem("index", value) is None


@pytest.mark.parametrize("value", ["", "ab", "A" * 256, "1abc", "_abc", "abc\n", "a:bc", "aéb"])
def test_what_is_not_an_identifier(value: str) -> None:
    problem = identifiers.identifier_problem("index", value)
    assert problem is not None
    assert problem.startswith(f"index ID `{value}` is invalid: identifiers must match")


@pytest.mark.parametrize("pattern", ["*", "abc", "a*", "*a*b", "a-_.*"])
def test_index_patterns(pattern: str) -> None:
    assert identifiers.index_pattern_problem(pattern) is None


@pytest.mark.parametrize(
    "pattern", ["", "ab", "**", "a**b", "-abc", "1*", "a" * 256, "abc\n", "a b"]
)
def test_what_is_not_an_index_pattern(pattern: str) -> None:
    assert identifiers.index_pattern_problem(pattern) is not None
