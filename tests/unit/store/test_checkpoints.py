"""Positions, deltas and what a delta does to a checkpoint."""

from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.store import checkpoints
from proxy.store.checkpoints import CheckpointDelta, PartitionDelta

OFFSET_9 = "00000000000000000009"
OFFSET_41 = "00000000000000000041"
OFFSET_99 = "00000000000000000099"
STRUCT = "quickwit_metastore::checkpoint::IndexCheckpointDelta"


def delta(**partitions: tuple[str, str]) -> CheckpointDelta:
    return CheckpointDelta(
        "kafka-a", {name: PartitionDelta(*interval) for name, interval in partitions.items()}
    )


def delta_json(source_id: object = "kafka-a", per_partition: object = None) -> str:
    return json.dumps(
        {"source_id": source_id, "source_delta": {"per_partition": per_partition or {}}}
    )


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("", OFFSET_9),
        ("", "~"),
        ("", "~a"),
        (OFFSET_9, OFFSET_41),
        (OFFSET_99, "~"),
        ("zzz", "~"),
        ("zzz", "~0"),
        ("~", "~0"),
        ("~0", "~1"),
        ("10", "9"),
        ("9", "90"),
        ("Z", "a"),
        ("z", "é"),
        ("\uffff", "\U00010000"),
        ("}", "\x7f"),
    ],
)
def test_positions_are_ordered_by_rank_then_bytes(lower: str, higher: str) -> None:
    assert checkpoints.position_key(lower) < checkpoints.position_key(higher)


@pytest.mark.parametrize("position", ["", OFFSET_9, "~", "~9", "a~b", "é"])
def test_a_position_equals_itself(position: str) -> None:
    assert checkpoints.position_key(position) == checkpoints.position_key(str(position))


@pytest.mark.parametrize(
    ("position", "text"),
    [
        ("", "Position::Beginning"),
        (OFFSET_99, f"Position::Offset({OFFSET_99})"),
        ("~", "Position::Eof"),
        ("~7", "Position::Eof(7)"),
        ("~~", "Position::Eof(~)"),
    ],
)
def test_the_debug_form_of_a_position(position: str, text: str) -> None:
    assert checkpoints.position_debug(position) == text


@pytest.mark.parametrize(
    ("position", "expected"), [("~", True), ("~1", True), ("", False), ("1~", False)]
)
def test_an_end_starts_with_a_tilde(position: str, *, expected: bool) -> None:
    assert checkpoints.is_eof(position) is expected


def test_a_delta_is_decoded_with_partitions_in_byte_order() -> None:
    text = delta_json(
        per_partition={
            "b": {"from": "", "to": "2"},
            "B": {"from": "1", "to": "~"},
            "": {"from": "", "to": "9"},
        }
    )

    decoded = checkpoints.parse_delta(text)

    assert decoded.source_id == "kafka-a"
    assert list(decoded.partitions.items()) == [
        ("", PartitionDelta("", "9")),
        ("B", PartitionDelta("1", "~")),
        ("b", PartitionDelta("", "2")),
    ]


def test_unknown_keys_of_a_delta_are_ignored() -> None:
    partitions = {"p": {"from": "", "to": "1", "z": 3}}
    text = json.dumps(
        {"x": 1, "source_id": "s", "source_delta": {"y": 2, "per_partition": partitions}}
    )

    assert checkpoints.parse_delta(text).partitions == {"p": PartitionDelta("", "1")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("[]", "invalid type: a list of 0 elements, expected an object"),
        ("{}", "missing field `source_id`"),
        ('{"source_id":"s"}', "missing field `source_delta`"),
        ('{"source_id":7,"source_delta":{}}', "field `source_id` is an integer, expected a string"),
        ('{"source_id":"s","source_delta":{}}', "missing field `source_delta.per_partition`"),
        (
            '{"source_id":"s","source_delta":{"per_partition":[]}}',
            "field `source_delta.per_partition` is a list of 0 elements, expected an object",
        ),
        (
            delta_json(per_partition={"p": {"to": "1"}}),
            "missing field `source_delta.per_partition.p.from`",
        ),
        (
            delta_json(per_partition={"p": {"from": "", "to": 1}}),
            "field `source_delta.per_partition.p.to` is an integer, expected a string",
        ),
        (
            delta_json(per_partition={"p": None}),
            "field `source_delta.per_partition.p` is null, expected an object",
        ),
    ],
)
def test_a_malformed_delta_names_the_field(text: str, message: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        checkpoints.parse_delta(text)

    assert (caught.value.struct_name, caught.value.message) == (STRUCT, message)


def test_applying_a_delta_moves_its_partitions_only() -> None:
    checkpoint = {"kafka-a": {"p": OFFSET_9, "q": OFFSET_9}, "other": {"p": OFFSET_9}}

    changed = checkpoints.apply_delta(checkpoint, delta(p=(OFFSET_9, OFFSET_41)), "i")

    assert changed is True
    assert checkpoint == {"kafka-a": {"p": OFFSET_41, "q": OFFSET_9}, "other": {"p": OFFSET_9}}


def test_a_source_without_an_entry_gets_one() -> None:
    checkpoint: checkpoints.Checkpoint = {}

    checkpoints.apply_delta(checkpoint, delta(p=("", OFFSET_9)), "i")

    assert checkpoint == {"kafka-a": {"p": OFFSET_9}}


def test_an_empty_delta_changes_nothing_and_makes_no_entry() -> None:
    checkpoint: checkpoints.Checkpoint = {}

    assert checkpoints.apply_delta(checkpoint, delta(), "i") is False
    assert checkpoint == {}


@pytest.mark.parametrize("stored", ["", OFFSET_9, OFFSET_41])
def test_a_gap_before_the_delta_is_accepted(stored: str) -> None:
    checkpoint = {"kafka-a": {"p": stored}}

    checkpoints.apply_delta(checkpoint, delta(p=(OFFSET_41, OFFSET_99)), "i")

    assert checkpoint == {"kafka-a": {"p": OFFSET_99}}


def test_a_delta_may_start_at_an_unknown_partition_s_middle() -> None:
    checkpoint: checkpoints.Checkpoint = {"kafka-a": {}}

    checkpoints.apply_delta(checkpoint, delta(p=(OFFSET_41, OFFSET_99)), "i")

    assert checkpoint == {"kafka-a": {"p": OFFSET_99}}


def test_the_end_of_a_delta_is_not_compared_with_its_start() -> None:
    checkpoint = {"kafka-a": {"p": OFFSET_9}}

    checkpoints.apply_delta(checkpoint, delta(p=(OFFSET_99, OFFSET_41)), "i")

    assert checkpoint == {"kafka-a": {"p": OFFSET_41}}


def test_applying_twice_is_refused_and_changes_nothing() -> None:
    checkpoint: checkpoints.Checkpoint = {}
    twice = delta(p=("", OFFSET_9), q=("", OFFSET_9))
    checkpoints.apply_delta(checkpoint, twice, "web-logs")

    with pytest.raises(errors.FailedPrecondition) as caught:
        checkpoints.apply_delta(checkpoint, twice, "web-logs")

    assert caught.value.entity == errors.checkpoint_delta("web-logs", "kafka-a")
    assert caught.value.message == (
        "incompatible checkpoint delta at partition `p`: end position is "
        "`Position::Offset(00000000000000000009)` (inclusive), whereas delta starts at "
        "`Position::Beginning` (exclusive)"
    )
    assert checkpoint == {"kafka-a": {"p": OFFSET_9, "q": OFFSET_9}}


def test_nothing_is_applied_if_a_later_partition_is_incompatible() -> None:
    checkpoint = {"kafka-a": {"a": OFFSET_9, "b": OFFSET_99}}

    with pytest.raises(errors.FailedPrecondition):
        checkpoints.apply_delta(
            checkpoint, delta(a=(OFFSET_9, OFFSET_41), b=(OFFSET_9, OFFSET_41)), "i"
        )

    assert checkpoint == {"kafka-a": {"a": OFFSET_9, "b": OFFSET_99}}


@pytest.mark.parametrize(
    ("stored", "start", "stored_text", "start_text"),
    [
        (OFFSET_99, "", f"Position::Offset({OFFSET_99})", "Position::Beginning"),
        ("~", OFFSET_99, "Position::Eof", f"Position::Offset({OFFSET_99})"),
        ("~9", "~", "Position::Eof(9)", "Position::Eof"),
        ("9", "10", "Position::Offset(9)", "Position::Offset(10)"),
    ],
)
def test_the_text_of_an_incompatibility(
    stored: str, start: str, stored_text: str, start_text: str
) -> None:
    problem = checkpoints.incompatibility({"p": stored}, delta(p=(start, "x")))

    assert problem == (
        f"incompatible checkpoint delta at partition `p`: end position is `{stored_text}` "
        f"(inclusive), whereas delta starts at `{start_text}` (exclusive)"
    )


def test_a_compatible_delta_has_no_problem() -> None:
    assert checkpoints.incompatibility({"p": OFFSET_9, "r": "~"}, delta(p=(OFFSET_9, "x"))) is None
