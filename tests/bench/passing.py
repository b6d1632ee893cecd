"""A bare grpc.aio server that passes unary calls on as bytes: the floor under the router.

Run with `python -m tests.bench.passing HOST:PORT`; it prints its own port. It routes nothing,
retries nothing and counts nothing; what it adds to a call is what the library takes.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

from proxy.routing.catalogue import RPCS, SERVICE
from tests.bench.echo import serve


async def _serve(target: str) -> None:
    channel = grpc.aio.insecure_channel(target)

    def handler(path: str) -> Any:
        upstream: Any = channel.unary_unary(path)

        async def pass_on(raw: bytes, _context: Any) -> bytes:
            answer: bytes = await upstream(raw)
            return answer

        return grpc.unary_unary_rpc_method_handler(pass_on)

    handlers = {name: handler(rpc.path) for name, rpc in RPCS.items() if not rpc.is_streaming}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    await serve(server)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
