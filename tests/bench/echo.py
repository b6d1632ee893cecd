"""A bare grpc.aio server that answers with bytes it was given: the floor under every call.

Run with `python -m tests.bench.echo`; it prints its port. `/echo/Set` takes the answer to come, as
messages that are each preceded by their length; `/echo/Unary` and `/echo/Stream` give it.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

import grpc

SET: Final = "/echo/Set"
UNARY: Final = "/echo/Unary"
STREAM: Final = "/echo/Stream"
LIMIT: Final = 512 * 1024 * 1024


def packed(messages: Sequence[bytes]) -> bytes:
    """Return what `Set` takes."""
    return b"".join(struct.pack("!I", len(message)) + message for message in messages)


def _unpacked(raw: bytes) -> list[bytes]:
    messages, position = [], 0
    while position < len(raw):
        (size,) = struct.unpack_from("!I", raw, position)
        messages.append(raw[position + 4 : position + 4 + size])
        position += 4 + size
    return messages


async def serve(server: grpc.aio.Server) -> None:
    """Listen on a free port, print it, and serve until the process ends."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


async def _serve() -> None:
    answer: list[bytes] = [b""]

    async def store(raw: bytes, _context: Any) -> bytes:
        answer[:] = _unpacked(raw)
        return b""

    async def unary(_raw: bytes, _context: Any) -> bytes:
        return answer[0]

    async def stream(_raw: bytes, context: Any) -> None:
        for message in answer:
            await context.write(message)

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", LIMIT)])
    handlers: dict[str, Any] = {
        "Set": grpc.unary_unary_rpc_method_handler(store),
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    await serve(server)


if __name__ == "__main__":
    asyncio.run(_serve())
