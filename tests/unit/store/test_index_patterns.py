"""Index ID patterns as bound values."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.store.index_patterns import IndexFilter, compile_patterns


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], IndexFilter(like=("%",))),
        (["web-logs"], IndexFilter(equal=("web-logs",))),
        (["web-*"], IndexFilter(like=("web-%",))),
        (["*logs*"], IndexFilter(like=("%logs%",))),
        (["a*"], IndexFilter(like=("a%",))),
        (["web_logs*"], IndexFilter(like=("web_logs%",))),
        (["web_logs"], IndexFilter(equal=("web_logs",))),
        (["a.b-c_D9"], IndexFilter(equal=("a.b-c_D9",))),
        (["abc", "x*"], IndexFilter(equal=("abc",), like=("x%",))),
        (["*", "-abc"], IndexFilter(like=("%",), not_equal=("abc",))),
        (["*", "-ab*", "-x*y"], IndexFilter(like=("%",), not_like=("ab%", "x%y"))),
        (["abc", "-*"], IndexFilter(equal=("abc",), not_like=("%",))),
        (["-abc", "abc*"], IndexFilter(like=("abc%",), not_equal=("abc",))),
        (["*", "in valid", "x"], IndexFilter(like=("%",))),
        (["x;drop table", "*"], IndexFilter(like=("%",))),
        (["a" * 255], IndexFilter(equal=("a" * 255,))),
    ],
)
def test_patterns_become_values(patterns: list[str], expected: IndexFilter) -> None:
    assert compile_patterns(patterns, "list_indexes_metadata") == expected


@pytest.mark.parametrize(
    ("wanted", "conditions", "values"),
    [
        (IndexFilter(like=("%",)), "TRUE", []),
        (IndexFilter(("a", "b")), "index_id = ANY($1::text[])", [["a", "b"]]),
        (
            IndexFilter(like=("web_-%",)),
            "(index_id ~>=~ $1::text AND index_id ~<~ $2::text AND index_id LIKE $3::text)",
            ["web", "wec", "web_-%"],
        ),
        (
            IndexFilter(("a",), ("b%", "cz%"), ("d", "e"), ("f%",)),
            (
                "(index_id = ANY($1::text[])"
                " OR (index_id ~>=~ $2::text AND index_id ~<~ $3::text AND index_id LIKE $4::text)"
                " OR (index_id ~>=~ $5::text AND index_id ~<~ $6::text AND index_id LIKE $7::text))"
                " AND NOT (index_id = ANY($8::text[]) OR index_id LIKE ANY($9::text[]))"
            ),
            [["a"], "b", "c", "b%", "cz", "c{", "cz%", ["d", "e"], ["f%"]],
        ),
        (
            IndexFilter(("a",), ("b%", "%c")),
            "index_id = ANY($1::text[]) OR index_id LIKE ANY($2::text[])",
            [["a"], ["b%", "%c"]],
        ),
        (
            IndexFilter(like=("%",), not_like=("b%",)),
            "(TRUE) AND NOT (index_id LIKE ANY($1::text[]))",
            [["b%"]],
        ),
        (
            IndexFilter(like=("a%",) * 9),
            "index_id LIKE ANY($1::text[])",
            [["a%"] * 9],
        ),
    ],
)
def test_values_become_conditions(
    wanted: IndexFilter, conditions: str, values: list[object]
) -> None:
    assert wanted.select("SELECT 1 WHERE :wanted") == (f"SELECT 1 WHERE {conditions}", values)


@pytest.mark.parametrize("patterns", [[], ["-abc"], ["-abc", "-x*"], ["-*"]])
@pytest.mark.parametrize("operation", ["list_indexes_metadata", "list_index_stats"])
def test_no_positive_pattern_is_internal(patterns: list[str], operation: str) -> None:
    with pytest.raises(errors.Internal) as caught:
        compile_patterns(patterns, operation)

    assert caught.value.message == f"failed to build `{operation}` SQL query"
    assert caught.value.cause == "The list of index id patterns may not be empty."


@pytest.mark.parametrize(
    ("patterns", "bad"),
    [
        (["ab"], "ab"),
        (["a**b"], "a**b"),
        ([""], ""),
        (["9abc"], "9abc"),
        (["abc\n"], "abc\n"),
        (["ab'c"], "ab'c"),
        (["a%c"], "a%c"),
        (["_abc"], "_abc"),
        (["a" * 256], "a" * 256),
        (["*" + "a" * 255], "*" + "a" * 255),
        (["abc", "x y"], "x y"),
        (["*", "-ab"], "ab"),
        (["*", "--abc"], "-abc"),
        (["*", "-"], ""),
        (["*", "9", "-abc"], "9"),
        (["été"], "été"),
    ],
)
def test_a_bad_pattern_is_internal_and_named(patterns: list[str], bad: str) -> None:
    with pytest.raises(errors.Internal) as caught:
        compile_patterns(patterns, "list_index_stats")

    assert caught.value.message == "failed to build `list_index_stats` SQL query"
    assert f"index ID pattern `{bad}` is invalid" in caught.value.cause
