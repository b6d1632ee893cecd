"""Where the processor time goes on each hot path: by process, and within the node by what it does.

Run with `make bench BENCH_ARGS=--profile`. The node is sampled by py-spy, which needs the right to
look into it: to be root, or `kernel.yama.ptrace_scope = 0`. Without it the first half is shown.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from proxy.proto.quickwit import metastore_pb2 as pb
from tests.bench import bulk, lists, small
from tests.bench.stage import Stage, cpu

SECONDS: Final = 5
_RATE: Final = 100
# What a stack is about: the first of these that is found in it, from its innermost frame on.
_KINDS: Final[Mapping[str, re.Pattern[str]]] = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "gRPC": r"cygrpc|grpc[/_]|libgrpc",
        "messages (protobuf)": r"google/(protobuf|_upb)|_message\.|\bupb_",
        "asyncpg": r"asyncpg",
        "compression": r"zstandard|ZSTD_|zstd",
        "JSON": r"\bjson/|_json\.",
        "ours: the store": r"proxy/store/",
        "ours: routing": r"proxy/(client|routing)/",
        "ours: the transport": r"proxy/http2/",
        "ours: around a call": r"proxy/",
        "the sockets of PostgreSQL": r"_SelectorSocketTransport\.(write|_read_ready)",
        "asyncio": r"asyncio/|_asyncio|selectors\.py",
    }.items()
}
_REST: Final = "Python and the system"
_UNLOCKED: Final = "without Python's lock (system calls, compression)"

Load = Callable[[], Awaitable[int]]


@dataclass
class Profile:
    """Of one hot path: processor milliseconds of a call by process, and shares within the node."""

    calls: int
    spent: Mapping[str, float]
    shares: Mapping[str, float]
    functions: list[tuple[str, float]]


async def measure(stage: Stage) -> str:
    """Profile all hot paths; return a table of each."""
    texts = []
    for name, (pid, load) in paths(stage).items():
        await load()
        texts.append(_told(name, await _profile(stage, pid, load)))
    return "\n\n".join(texts)


def paths(stage: Stage) -> dict[str, tuple[int | None, Load]]:
    """Return for each hot path which process is looked into, and what loads it."""
    primary, router = stage.primary, stage.router
    metadata, few = small.metadata_requests(500), small.list_requests(500)
    everything = pb.ListIndexesMetadataRequest(index_id_patterns=["*"]).SerializeToString().hex()
    staged, published = map(iter, bulk.write_requests(80, bulk.FIRST_INDEX + 2, 50_000_000))

    async def long_list() -> int:
        query = lists.one_index()
        await stage.caller("stream", target=primary.address, rpc="ListSplits", query=query)
        return 1

    def calls(target: str, rpc: str, requests: list[str]) -> Load:
        async def load() -> int:
            done = await stage.caller(
                "calls", target=target, rpc=rpc, requests=requests, seconds=1.0, concurrency=16
            )
            return int(done["count"])

        return load

    async def all_metadata() -> int:
        await _write(stage, "ListIndexesMetadata", everything)
        return 1

    async def writes() -> int:
        await _write(stage, "StageSplits", next(staged))
        await _write(stage, "PublishSplits", next(published))
        return 1

    return {
        f"ListSplits of {stage.many:,}": (primary.pid, long_list),
        "IndexMetadata": (primary.pid, calls(primary.address, "IndexMetadata", metadata)),
        "ListSplits of 10": (primary.pid, calls(primary.address, "ListSplits", few)),
        "IndexMetadata, the router": (
            router.pid,
            calls(router.address, "IndexMetadata", metadata),
        ),
        "ListIndexesMetadata of all": (primary.pid, all_metadata),
        "StageSplits and PublishSplits of 1,000": (primary.pid, writes),
    }


async def _write(stage: Stage, rpc: str, request: str) -> None:
    await stage.caller("write", target=stage.primary.address, rpc=rpc, requests=[request])


async def _profile(stage: Stage, pid: int | None, load: Load) -> Profile:
    before = _processor(stage)
    sampling = asyncio.create_task(_stacks(pid), name="sample")
    calls, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < SECONDS:
        calls += await load()
    after = _processor(stage)
    kinds: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for stack, count in (await sampling).items():
        kinds[_kind(stack)] += count
        # Without symbols only the library is known.
        functions[re.sub(r"^0x[0-9a-f]+ ", "", _function(stack))] += count
    who = "router" if pid == stage.router.pid else "node"
    # Samples are of the thread that has Python's lock, for a second less than the calls went on.
    total = (after[who] - before[who]) / took * (SECONDS - 1) * _RATE
    if kinds:
        kinds[_UNLOCKED] = max(0, round(total - sum(kinds.values())))
    total = sum(kinds.values()) or 1
    return Profile(
        calls,
        {name: (after[name] - before[name]) / calls * 1000 for name in after},
        {kind: count / total for kind, count in kinds.most_common()},
        [(name, count / total) for name, count in functions.most_common(8)],
    )


def _processor(stage: Stage) -> dict[str, float]:
    """Return the processor seconds of each process so far."""
    server = psutil.Process(stage.pair.primary.pid)
    return {
        "node": cpu(stage.primary.pid),
        "router": cpu(stage.router.pid),
        "PostgreSQL": sum(cpu(one.pid) for one in (server, *server.children())),
        "client": cpu(stage.caller.pid),
    }


async def _stacks(pid: int | None) -> dict[str, int]:
    """Return how often each stack was seen; empty where the process cannot be looked into."""
    program = shutil.which("py-spy", path=f"{Path(sys.executable).parent}")
    if program is None:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "stacks"
        process = await asyncio.create_subprocess_exec(
            *(program, "record", "--pid", str(pid), "--duration", str(SECONDS - 1)),
            *("--rate", str(_RATE), "--format", "raw", "--native", "--gil", "--function"),
            *("--output", str(path)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        if await process.wait() or not path.exists():
            return {}
        lines = path.read_text(encoding="utf-8").splitlines()
    split = (line.rpartition(" ") for line in lines)
    return {stack: int(count) for stack, _, count in split}


def _kind(stack: str) -> str:
    for frame in reversed(stack.split(";")):
        for kind, pattern in _KINDS.items():
            if pattern.search(frame):
                return kind
    return _REST


def _function(stack: str) -> str:
    """Return the innermost function of a module that is known, else the innermost of all."""
    for frame in reversed(stack.split(";")):
        if any(pattern.search(frame) for pattern in _KINDS.values()):
            return frame
    return stack.rpartition(";")[2]


def _told(name: str, profile: Profile) -> str:
    spent = ", ".join(f"{who} {value:.3g}" for who, value in profile.spent.items() if value >= 0.01)
    lines = [f"{name} ({profile.calls:,} calls)", f"  processor ms of a call: {spent}"]
    if not profile.shares:
        return "\n".join([*lines, "  py-spy is not installed, or may not look into the node"])
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in profile.shares.items())
    lines.append(f"  of the node's or router's: {shares}")
    lines += [f"  {share:>6.1%}  {function}" for function, share in profile.functions]
    return "\n".join(lines)
