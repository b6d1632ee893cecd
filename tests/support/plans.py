"""How PostgreSQL runs what the store sends: statements recorded from calls, run by EXPLAIN.

What is judged is what a plan reads, counted in blocks, against what its rows need. So a scan of a
large table is found whatever it is called, and one of a small table does no harm.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg

from proxy.store.pool import Database
from proxy.store.queries import name_of

Sql = asyncpg.Connection

# Blocks that a statement for a handful of rows may read: the way down some indexes, and the rows.
FEW: Final = 120
# Blocks of a row that is named by its key, in a large table: the way down its index, and the row.
BY_KEY: Final = 8
# Blocks of a row that is one of a range, with its entry in an index: rows of 1.2 KB, and air.
BY_RANGE: Final = 0.8
# What PostgreSQL takes planning to cost, when it weighs a plan for all values against new ones.
_PLANNING: Final = 1000 * 0.0025
_SAVEPOINT: Final = "explained"


@dataclass(frozen=True)
class Sent:
    """A statement with its values, and how many blocks it may read.

    `unknown` is how many it may where statistics alone could tell PostgreSQL what to do.
    """

    name: str
    sql: str
    values: tuple[object, ...]
    blocks: int = FEW
    unknown: int = 0


class RecordingDatabase(Database):
    """A database that keeps what is sent through it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent: list[Sent] = []

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """As the other's."""
        async with super().acquire() as session, self._noted(session):
            yield session

    @asynccontextmanager
    async def look_at_list(self) -> AsyncIterator[Any]:
        """As the other's."""
        async with super().look_at_list() as session, self._noted(session):
            yield session

    @asynccontextmanager
    async def _noted(self, session: Any) -> AsyncIterator[None]:
        with session.query_logger(self._note):
            yield

    def _note(self, logged: Any) -> None:
        if logged.query.lstrip().partition(" ")[0] in ("BEGIN", "COMMIT;", "BEGIN;", "ROLLBACK;"):
            return
        self.sent.append(Sent(name_of(logged.query), logged.query, tuple(logged.args)))


@dataclass(frozen=True)
class Plan:
    """What EXPLAIN tells of a statement that it has run."""

    cost: float
    blocks: int
    relations: int
    scans: tuple[str, ...]


@dataclass
class Findings:
    """What was looked at, and what reads too much."""

    plans: int = 0
    unused: int = 0
    worst: list[str] = field(default_factory=list)


async def explain_all(
    sql: Sql, statements: Sequence[Sent], findings: Findings, *, analyzed: bool
) -> None:
    """Run each statement with the plans that PostgreSQL may use for it, and undo what it did.

    Within a transaction of the caller. A plan for all values is used, and so is judged, when it
    does not cost more than planning anew.
    """
    for sent in statements:
        kept = _Kept(sql, sent)
        anew = await kept.explain("force_custom_plan")
        general = await kept.explain("force_generic_plan")
        plans = {"for these values": anew}
        if general.cost < anew.cost + _PLANNING * (anew.relations + 1):
            plans["for all values"] = general
        else:
            findings.unused += 1
        for kind, plan in plans.items():
            findings.plans += 1
            allowed = sent.blocks if analyzed else max(sent.blocks, sent.unknown)
            if plan.blocks > allowed:
                findings.worst.append(
                    f"{sent.name}, {'with' if analyzed else 'without'} statistics, {kind}: "
                    f"{plan.blocks:,} blocks are read where {allowed:,} will do, "
                    f"by {', '.join(plan.scans)}"
                )


class _Kept:
    """A prepared statement for EXPLAIN."""

    def __init__(self, sql: Sql, sent: Sent) -> None:
        self._sql = sql
        self._sent = sent

    async def explain(self, mode: str) -> Plan:
        """Return the plan that a mode of the plan cache leads to."""
        await self._sql.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            await self._sql.execute(f"SET LOCAL plan_cache_mode = {mode}")
            await self._sql.execute(f"PREPARE sent AS {self._sent.sql}")
            values = ", ".join(map(literal, self._sent.values))
            command = f"EXECUTE sent({values})" if values else "EXECUTE sent"
            return await self._run(command)
        finally:
            await self._sql.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            await self._sql.execute("DEALLOCATE sent")

    async def _run(self, command: str) -> Plan:
        await self._sql.execute("SAVEPOINT run")
        try:
            return await self._explain("ANALYZE, BUFFERS, TIMING OFF, ", command)
        except asyncpg.IntegrityConstraintViolationError:
            # It is in the table already; a row that is added reads nothing.
            await self._sql.execute("ROLLBACK TO SAVEPOINT run")
            return await self._explain("", command)

    async def _explain(self, options: str, command: str) -> Plan:
        text = await self._sql.fetchval(f"EXPLAIN ({options}FORMAT JSON) {command}", timeout=120)
        (found,) = json.loads(text)
        top = found["Plan"]
        nodes = [node for node in _nodes(top) if "Relation Name" in node or "Index Name" in node]
        # A node that modifies a table writes; what it reads is below it.
        scans = [node for node in nodes if node["Node Type"] != "ModifyTable"]
        return Plan(
            cost=top["Total Cost"],
            blocks=sum(map(_blocks, scans)),
            relations=len({node.get("Alias") for node in scans}),
            scans=tuple(_told(node) for node in scans),
        )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _own(node: dict[str, Any], key: str) -> int:
    value: int = node.get(key, 0)
    return value


def _blocks(node: dict[str, Any]) -> int:
    """Return the blocks that a node has read itself, without those below it."""
    keys = ("Shared Hit Blocks", "Shared Read Blocks")
    own = sum(_own(node, key) for key in keys)
    return own - sum(_own(child, key) for child in node.get("Plans", ()) for key in keys)


def _told(node: dict[str, Any]) -> str:
    where = node.get("Index Name") or node.get("Relation Name")
    return f"{node['Node Type']} of {where} ({_blocks(node):,})"


def literal(value: object) -> str:
    """Return a value as an SQL literal whose type the statement decides."""
    if value is None:
        return "NULL"
    text = _array(value) if isinstance(value, list | tuple) else _text(value)
    return "'" + text.replace("'", "''") + "'"


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return str(value)


def _array(values: Sequence[object]) -> str:
    items = []
    for value in values:
        if value is None:
            items.append("NULL")
        else:
            escaped = _text(value).replace("\\", "\\\\").replace('"', '\\"')
            items.append(f'"{escaped}"')
    return "{" + ",".join(items) + "}"
