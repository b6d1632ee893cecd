"""gRPC over HTTP/2 on asyncio: the transport under our server and under the client of routers.

The library `grpcio` hands each call from a thread of its own to the event loop and back, which
costs a small read five times what it does here. What is on the wire is the same.

From the bottom up: `frames` and `fields` know the bytes, `connection` keeps one connection and its
flow control (RFC 9113), `messages` and `metadata` know what gRPC puts into it, and on these stand
`call` and `server`.
"""
