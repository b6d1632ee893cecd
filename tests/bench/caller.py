"""The client of the benchmark, a process of its own: told what to call by lines on its input.

Run with `python -m tests.bench.caller`. Each line is a JSON object; its `do` names a function of
this module that takes the rest and returns what goes out as one line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from statistics import median
from typing import Any, Final

import grpc

from proxy.client import ClientOptions, RoutingClient
from proxy.proto.quickwit import metastore_pb2 as pb
from tests.bench import echo, floors

PATH: Final = "/quickwit.metastore.MetastoreService/"
_MIB: Final = 1024 * 1024
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", echo.LIMIT),
    ("grpc.max_send_message_length", echo.LIMIT),
    ("grpc.use_local_subchannel_pool", 1),
]
# A second is more than it takes to find two workers.
JOIN_TIME: Final = 1.0
# No two calls are to be answered by one.
_NOT_SHARED: Final = ClientOptions(share_reads=False)
_channels: dict[tuple[str, int], grpc.aio.Channel] = {}
_clients: dict[str, RoutingClient] = {}


def _channel(target: str, number: int = 0) -> grpc.aio.Channel:
    if (target, number) not in _channels:
        _channels[target, number] = grpc.aio.insecure_channel(target, options=_OPTIONS)
    return _channels[target, number]


def _path(rpc: str) -> str:
    return rpc if rpc.startswith("/") else PATH + rpc


def _same(raw: bytes) -> bytes:
    return raw


async def stream(target: str, rpc: str, query: str, decode: bool = True) -> dict[str, Any]:
    """Read one stream to its end; a metastore's messages are decoded, as any caller does."""
    request = pb.ListSplitsRequest(query_json=query).SerializeToString()
    decoded = decode and not rpc.startswith("/")
    decoder: Callable[[bytes], Any] = pb.ListSplitsResponse.FromString if decoded else _same
    call: Any = _channel(target).unary_stream(_path(rpc), _same, decoder)
    first, messages, size = 0.0, 0, 0
    used, started = time.process_time(), time.perf_counter()
    answer = call(request)
    while (message := await answer.read()) is not grpc.aio.EOF:
        if not messages:
            first = time.perf_counter() - started
        messages += 1
        size += len(message.splits_serialized_json) if decoded else len(message)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "first": first,
        "messages": messages,
        "bytes": size,
        "cpu": time.process_time() - used,
    }


async def routed_stream(primary: str, replicas: list[str], query: str) -> dict[str, Any]:
    """Read one stream with the routing client."""
    async with RoutingClient([primary], replicas) as client:
        await client.wait_ready()
        first, size = 0.0, 0
        used, started = time.process_time(), time.perf_counter()
        async for message in client.list_splits(pb.ListSplitsRequest(query_json=query)):
            first = first or time.perf_counter() - started
            size += len(message.splits_serialized_json)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "first": first,
            "bytes": size,
            "cpu": time.process_time() - used,
        }


async def keep(target: str, rpc: str, request: str, echo_target: str) -> dict[str, Any]:
    """Have the echo server answer from now on as a metastore does to this request."""
    raw = bytes.fromhex(request)
    channel = _channel(target)
    if rpc == "ListSplits":
        messages = [m async for m in channel.unary_stream(_path(rpc), _same, _same)(raw)]
    else:
        messages = [await channel.unary_unary(_path(rpc), _same, _same)(raw)]
    await _channel(echo_target).unary_unary(echo.SET, _same, _same)(echo.packed(messages))
    return {"messages": len(messages), "bytes": sum(map(len, messages))}


def _caller(
    target: str, rpc: str, requests: Sequence[str], number: int
) -> Callable[[], Awaitable[object]]:
    """Return what makes the next call: with each of the requests in turn."""
    channel = _channel(target, number)
    raws = itertools.cycle(bytes.fromhex(request) for request in requests)
    if rpc in ("ListSplits", echo.STREAM):
        streaming = channel.unary_stream(_path(rpc), _same, _same)

        async def read() -> None:
            call: Any = streaming(next(raws))
            while await call.read() is not grpc.aio.EOF:
                pass

        return read
    unary: Any = channel.unary_unary(_path(rpc), _same, _same)
    return lambda: unary(next(raws))


async def calls(
    target: str, rpc: str, requests: list[str], seconds: float, concurrency: int, channels: int = 1
) -> dict[str, Any]:
    """Call again and again from `concurrency` tasks over `channels` connections."""
    # Each begins elsewhere, so that no two ask the same at the same time.
    step = len(requests) // concurrency or 1
    callers = [
        _caller(target, rpc, requests[n * step :] + requests[: n * step], n % channels)
        for n in range(concurrency)
    ]
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def repeat(call: Callable[[], Awaitable[object]]) -> None:
        while (began := time.perf_counter()) < until:
            await call()
            latencies.append(time.perf_counter() - began)

    started = time.perf_counter()
    await asyncio.gather(*map(repeat, callers))
    return _told(latencies, time.perf_counter() - started)


async def paced(
    target: str, rpc: str, requests: list[str], seconds: float, rate: float
) -> dict[str, Any]:
    """Call at a fixed rate, whatever the answers take. A latency counts from when it was due."""
    call = _caller(target, rpc, requests, 0)
    latencies: list[float] = []
    pending: set[asyncio.Task[None]] = set()

    async def once(due: float) -> None:
        await call()
        latencies.append(time.perf_counter() - due)

    started = time.perf_counter()
    for number in range(int(seconds * rate)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(once(due))
        pending.add(task)
        task.add_done_callback(pending.discard)
    if pending:
        await asyncio.wait(pending)
    return _told(latencies, time.perf_counter() - started)


def _told(latencies: list[float], seconds: float) -> dict[str, Any]:
    ordered = sorted(latencies)
    return {
        "latencies": ordered if len(ordered) <= 1000 else [],
        "rate": len(ordered) / seconds,
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "worst": ordered[-1],
    }


async def crowd(target: str, query: str, lists: int) -> dict[str, Any]:
    """Read `lists` streams at once, each over a connection of its own."""
    request = pb.ListSplitsRequest(query_json=query).SerializeToString()

    async def read(number: int) -> int:
        call: Any = _channel(target, 100 + number).unary_stream(_path("ListSplits"), _same, _same)(
            request
        )
        size = 0
        while (message := await call.read()) is not grpc.aio.EOF:
            size += len(message)
        return size

    started = time.perf_counter()
    sizes = await asyncio.gather(*map(read, range(lists)))
    return {"seconds": time.perf_counter() - started, "sizes": sizes}


async def stall(target: str, query: str, streams: int, seconds: float) -> dict[str, Any]:
    """Read one message of each of `streams` lists and no more, for some seconds.

    Returns how many were ended, and when, by the clock of all processes, all had begun.
    """
    request = pb.ListSplitsRequest(query_json=query).SerializeToString()
    calls: list[Any] = []
    for number in range(streams):
        channel = _channel(target, 1000 + number)
        calls.append(channel.unary_stream(_path("ListSplits"), _same, _same)(request))
    await asyncio.gather(*(call.read() for call in calls))
    since = time.monotonic()
    await asyncio.sleep(seconds)
    ended = 0
    for call in calls:
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            ended += 1
    return {"ended": ended, "since": since}


async def served_by(
    primary: str, replicas: list[str], ids: list[str], count: int, at_once: list[int]
) -> dict[str, Any]:
    """Read with the routing client; return how many of `count` calls each node served.

    That for each number of callers in `at_once`, after as many unmeasured reads as there are `ids`:
    they open the nodes' database sessions. `took` is the median of each node, in seconds.
    """
    served: Counter[str] = Counter()
    took: dict[str, list[float]] = {}

    async def repeat(client: RoutingClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            request = pb.IndexMetadataRequest(index_id=ids[number % len(ids)])
            began = time.perf_counter()
            node = (await client.index_metadata(request)).served_by
            served[node] += 1
            took.setdefault(node, []).append(time.perf_counter() - began)

    async def read(client: RoutingClient, calls: int, callers: int) -> dict[str, Any]:
        served.clear()
        took.clear()
        numbers = iter(range(calls))
        await asyncio.gather(*(repeat(client, numbers) for _ in range(callers)))
        return {"served": dict(served), "took": {node: median(took[node]) for node in took}}

    async with RoutingClient([primary], replicas) as client:
        await client.wait_until(lambda now: len(now.serving_replicas) == len(replicas))
        await read(client, len(ids), 64)
        return {str(callers): await read(client, count, callers) for callers in at_once}


async def join(targets: list[str]) -> dict[str, Any]:
    """Have a routing client to each node, with a connection to each worker of it."""
    for target in targets:
        if target in _clients:
            continue
        client = _clients[target] = RoutingClient([target], options=_NOT_SHARED)
        await client.open()
        await client.wait_ready()
        # Connections are made until one leads to each worker.
        await asyncio.sleep(JOIN_TIME)
    return {}


async def leave() -> dict[str, Any]:
    """Close what `join` has opened."""
    while _clients:
        await _clients.popitem()[1].close()
    return {}


async def routed_calls(
    targets: list[str], requests: list[str], seconds: float, concurrency: int
) -> dict[str, Any]:
    """Call IndexMetadata again and again by the clients that `join` has opened, each as often."""
    clients, latencies = itertools.cycle([_clients[target] for target in targets]), list[float]()
    parsed = [pb.IndexMetadataRequest.FromString(bytes.fromhex(one)) for one in requests]
    wanted = itertools.cycle(parsed)
    until = time.perf_counter() + seconds

    async def repeat(client: RoutingClient) -> None:
        while (began := time.perf_counter()) < until:
            await client.index_metadata(next(wanted))
            latencies.append(time.perf_counter() - began)

    started = time.perf_counter()
    await asyncio.gather(*(repeat(next(clients)) for _ in range(concurrency)))
    return _told(latencies, time.perf_counter() - started)


async def write(target: str, rpc: str, requests: list[str]) -> dict[str, Any]:
    """Make unary calls one after the other, each timed."""
    unary: Any = _channel(target).unary_unary(_path(rpc), _same, _same)
    seconds = []
    for request in requests:
        began = time.perf_counter()
        await unary(bytes.fromhex(request))
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


_DO: Final[dict[str, Callable[..., Awaitable[dict[str, Any]]]]] = {
    "stream": stream,
    "routed_stream": routed_stream,
    "keep": keep,
    "calls": calls,
    "paced": paced,
    "crowd": crowd,
    "stall": stall,
    "write": write,
    "served_by": served_by,
    "join": join,
    "leave": leave,
    "routed_calls": routed_calls,
    "floor_cursor": floors.cursor,
    "floor_compress": floors.compress,
    "floor_stage": floors.stage,
    "floor_publish": floors.publish,
}


async def _obey() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=64 * _MIB)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        told = json.loads(line)
        answer = await _DO[told.pop("do")](**told)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_obey())
