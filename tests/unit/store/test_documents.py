"""What counts as JSON, beyond what Python's own reader refuses."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.store import documents


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1e400", "number out of range: 1e400"),
        ("1" + "0" * 400, "number out of range: 1" + "0" * 31),
        ("-1" + "0" * 5000, "number out of range: -1" + "0" * 30),
        ('"\\ud800"', "lone surrogate in a string"),
        ('{"a":1,"b":2,"a":1}', "duplicate field `a`"),
        ('[{"x":{"b":1,"b":2}}]', "duplicate field `b`"),
        ("[" * 128 + "]" * 128, "recursion limit exceeded"),
        ('{"a":' * 128 + "1" + "}" * 128, "recursion limit exceeded"),
        ("[" * 1_000_000, "recursion limit exceeded"),
    ],
)
def test_what_is_no_document(text: str, problem: str) -> None:
    with pytest.raises(errors.JsonDeserializeError) as caught:
        documents.parse(text, "Thing")

    assert caught.value.message == problem
    assert caught.value.struct_name == "Thing"


@pytest.mark.parametrize(
    "text", ["[" * 127 + "]" * 127, "[" + ",".join(["[{}]"] * 1000) + "]", "1" + "0" * 308]
)
def test_what_is_just_a_document(text: str) -> None:
    assert documents.dump(documents.parse(text, "Thing")) == text


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"a":"x\\u0000"}', "a"),
        ('{"a":{"b":["x",{"c":"\\u0000"}]}}', "a.b.c"),
        ('{"a":{"\\u0000":1}}', "a"),
    ],
)
def test_a_nul_character_is_refused_unless_it_is_stored(text: str, field: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        documents.parse(text, "Thing")

    assert caught.value.message == f"field `{field}` of `Thing` holds a NUL character, remove it"
    assert "\\u0000" in documents.dump(documents.parse(text, "Thing", is_stored=True))


def test_an_escaped_backslash_is_no_nul_character() -> None:
    assert documents.parse('"\\\\u0000"', "Thing") == "\\u0000"
