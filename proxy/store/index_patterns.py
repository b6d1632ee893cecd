"""Index ID patterns turned into bound values of SQL.

Facts: a leading `-` makes a pattern negative; the result is every index that matches some positive
pattern and no negative one. A pattern with `*` is a LIKE in which `_` stays a wildcard; one
without is an equality. A plain `*` among patterns none of which is negative selects everything,
and its companions are not looked at. Bad and empty lists are `Internal`, as in Quickwit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from proxy import identifiers
from proxy.errors import Internal

EMPTY: Final = "The list of index id patterns may not be empty."


@dataclass(frozen=True, slots=True)
class IndexFilter:
    """Values for `index_id = ANY` and `index_id LIKE ANY`, wanted and unwanted."""

    equal: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    not_equal: tuple[str, ...] = ()
    not_like: tuple[str, ...] = ()

    def arguments(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """Return the four arrays in the order in which the queries bind them."""
        return list(self.equal), list(self.like), list(self.not_equal), list(self.not_like)


def compile_patterns(patterns: Iterable[str], operation: str) -> IndexFilter:
    """Return the filter for a list of patterns.

    `Internal` naming `operation` if no pattern is positive or one is not valid.
    """
    positive: list[str] = []
    negative: list[str] = []
    for pattern in patterns:
        if pattern.startswith("-"):
            negative.append(pattern[1:])
        else:
            positive.append(pattern)
    if not positive:
        raise _failure(operation, EMPTY)
    if not negative and "*" in positive:
        return IndexFilter(like=("%",))
    for pattern in (*positive, *negative):
        problem = identifiers.index_pattern_problem(pattern)
        if problem:
            cause = str(Internal("failed to build list indexes query", problem))
            raise _failure(operation, cause)
    equal, like = _split(positive)
    not_equal, not_like = _split(negative)
    return IndexFilter(equal, like, not_equal, not_like)


def _failure(operation: str, cause: str) -> Internal:
    return Internal(f"failed to build `{operation}` SQL query", cause)


def _split(patterns: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    equal = tuple(pattern for pattern in patterns if "*" not in pattern)
    like = tuple(pattern.replace("*", "%") for pattern in patterns if "*" in pattern)
    return equal, like
