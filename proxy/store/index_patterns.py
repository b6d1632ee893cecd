"""Index ID patterns turned into bound values of SQL.

Facts: a leading `-` makes a pattern negative; the result is every index that matches some positive
pattern and no negative one. A pattern with `*` is a LIKE in which `_` stays a wildcard; one
without is an equality. A plain `*` among patterns none of which is negative selects everything,
and its companions are not looked at. Bad and empty lists are `Internal`, as in Quickwit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy import identifiers
from proxy.errors import Internal

# A statement for each number of patterns is prepared; with more of them the table is read.
_MOST_RANGES: Final = 8

EMPTY: Final = "The list of index id patterns may not be empty."


@dataclass(frozen=True, slots=True)
class IndexFilter:
    """Values for `index_id =` and `index_id LIKE`, wanted and unwanted."""

    equal: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    not_equal: tuple[str, ...] = ()
    not_like: tuple[str, ...] = ()

    def select(self, sql: str) -> tuple[str, list[object]]:
        """Return a statement with the conditions in place of `:wanted`, and its arguments.

        The index on `index_id` serves IDs and patterns that begin with some characters, as long as
        there are few of those: each has a condition of its own. Of LIKE in an array, and in a plan
        for all values, PostgreSQL does not see where it begins; of a range it does.
        """
        values: list[object] = []

        def bind(value: object, sql_type: str) -> str:
            values.append(value)
            return f"${len(values)}::{sql_type}"

        def named(equal: Sequence[str], like: Sequence[str]) -> str:
            conditions = []
            if equal:
                conditions.append(f"index_id = ANY({bind(list(equal), 'text[]')})")
            if like:
                conditions.append(f"index_id LIKE ANY({bind(list(like), 'text[]')})")
            return " OR ".join(conditions)

        if self.like == ("%",):
            wanted = "TRUE"
        elif len(self.like) > _MOST_RANGES or not all(map(_beginning, self.like)):
            wanted = named(self.equal, self.like)
        else:
            conditions = [named(self.equal, ())] if self.equal else []
            for pattern in self.like:
                beginning = _beginning(pattern)
                conditions.append(
                    f"(index_id ~>=~ {bind(beginning, 'text')} "
                    f"AND index_id ~<~ {bind(_after(beginning), 'text')} "
                    f"AND index_id LIKE {bind(pattern, 'text')})"
                )
            wanted = " OR ".join(conditions)
        if self.not_equal or self.not_like:
            wanted = f"({wanted}) AND NOT ({named(self.not_equal, self.not_like)})"
        return sql.replace(":wanted", wanted), values


def _beginning(pattern: str) -> str:
    """Return the characters of a LIKE pattern before its first wildcard."""
    return re.split("[%_]", pattern, maxsplit=1)[0]


def _after(beginning: str) -> str:
    """Return what comes, in the order of bytes, after all texts with a beginning in ASCII."""
    return beginning[:-1] + chr(ord(beginning[-1]) + 1)


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
