"""A stand-in for a worker process, started by a parent under test. Needs the standard library only.

The first argument is what it does: `serve`, `fail` (ends with status 3 before it is ready),
`stubborn` (serves, and ignores SIGTERM), `slow` (has the bound of its drain raised, and takes a
second to end), `mute` (says that it is ready, and answers nothing), `once` (serves, then ends with
status 5 when it is told of its own being ready). The second is a file to which it writes a line at
each start, and `HUP` at each SIGHUP.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any


def main(behaviour: str, trail: Path, worker: str) -> None:
    """Run."""
    number, _, link, *_ = worker.split(":")
    with trail.open("a") as file:
        file.write(f"{number}\n")
    if behaviour == "fail":
        sys.exit(3)
    sock = socket.socket(fileno=int(link))

    def tell(kind: str, body: Any) -> None:
        data = json.dumps({"kind": kind, "body": body}).encode()
        sock.sendall(struct.pack(">I", len(data)) + data)

    def hang_up(*_: object) -> None:
        with trail.open("a") as file:
            file.write("HUP\n")

    signal.signal(signal.SIGHUP, hang_up)

    def end(*_: object) -> None:
        if behaviour == "slow":
            time.sleep(1)
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else end)
    tell("hello", None)
    if behaviour == "slow":
        tell("drain bound", 60.0)
    tell("state", {"ready": True, "reason": ""})
    while True:
        message = read(sock)
        if behaviour == "once":
            sys.exit(5)
        if "number" in message and behaviour != "mute":
            metrics = [["f", "counter", "text", "", "sum", [["f_total", [], 1.0]]]]
            body = metrics if message["kind"] == "metrics" else True
            tell("answer", {"number": message["number"], "body": body})


def read(sock: socket.socket) -> dict[str, Any]:
    """Return the next message; end when there is none."""

    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = sock.recv(size - len(data))
            if not more:
                sys.exit(0)
            data += more
        return data

    (length,) = struct.unpack(">I", exactly(4))
    message: dict[str, Any] = json.loads(exactly(length))
    return message


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[-1])
