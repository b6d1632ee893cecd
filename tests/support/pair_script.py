"""A program that starts a pair and ends in a way of its choice: `stop`, `exit`, `fail` or `wait`.

It prints one line of JSON once the pair is up. `wait` waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from proxy.demo.postgres import PostgresPair


async def main(ending: str) -> None:
    """Start, prove that the pair streams, report, end."""
    pair = PostgresPair()
    await pair.start()
    await pair.create_database("proof")
    await pair.wait_caught_up()
    found = await pair.standby.value("SELECT current_database()", database="proof")
    print(  # noqa: T201 - the report to the test
        json.dumps(
            {
                "user_id": os.geteuid(),
                "directory": str(pair.directory),
                "servers": [pair.primary.pid, pair.standby.pid],
                "streams": found == "proof",
            }
        ),
        flush=True,
    )
    if ending == "wait":
        await asyncio.Event().wait()
    elif ending == "stop":
        await pair.stop()
    elif ending == "fail":
        raise SystemExit(3)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
