"""The demo as a user runs it: what it shows, how it ends, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import until

BOUND = 90.0


class Demo:
    """A running demo whose temporary files are in a directory of their own."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.lines: list[str] = []

    async def read_until(self, text: str) -> None:
        """Read on until a line contains `text`."""
        async with asyncio.timeout(BOUND):
            line = ""
            while text not in line:
                raw = await self._stdout.readline()
                assert raw, "\n".join(self.lines)
                line = raw.decode().rstrip("\n")
                self.lines.append(line)

    async def finish(self) -> int:
        """Read the rest and return the exit status."""
        async with asyncio.timeout(BOUND):
            rest = await self._stdout.read()
            self.lines += rest.decode().splitlines()
            return await self.process.wait()

    @property
    def _stdout(self) -> asyncio.StreamReader:
        assert self.process.stdout is not None
        return self.process.stdout

    def leftovers(self) -> list[str]:
        """Return the processes and files that the demo left."""
        found = [str(path) for path in self.directory.iterdir()]
        for process in psutil.process_iter(["cmdline", "environ", "pid"]):
            environ = process.info["environ"] or {}
            command = process.info["cmdline"] or []
            if environ.get("TMPDIR") == str(self.directory) or any(
                str(self.directory) in argument for argument in command
            ):
                found.append(f"{process.info['pid']} {command}")
        return found


def new_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="demo-test-"))
    directory.chmod(0o755)
    return directory


async def start(*arguments: str) -> Demo:
    directory = new_directory()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy",
        "demo",
        *arguments,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return Demo(process, directory)


@pytest.fixture
async def demos() -> AsyncIterator[list[Demo]]:
    """The demos of a test; those still running at its end are ended."""
    running: list[Demo] = []
    yield running
    for demo in running:
        if demo.process.returncode is None:
            demo.process.terminate()
            await demo.finish()
        shutil.rmtree(demo.directory, ignore_errors=True)


async def test_the_tour_ends_well_and_leaves_nothing(demos: list[Demo]) -> None:
    demo = await start("--exit")
    demos.append(demo)
    assert await demo.finish() == 0, "\n".join(demo.lines)
    assert re.fullmatch(r"demo ok: \d+ reads, 0 failed", demo.lines[-1])
    text = "\n".join(demo.lines)
    assert "1,000 splits" in text
    assert re.search(r"ListSplits +replica-[12] +replica +\d+\.\d\d s old", text)
    assert re.search(r"ListSplits +metastore-1 +fallback +0\.00 s old", text)
    assert re.search(r"7\. Start replica-1 again.*IndexMetadata +replica-1 +replica", text, re.S)
    await until(lambda: not demo.leftovers(), demo.leftovers)


async def test_after_the_tour_it_runs_until_ctrl_c(demos: list[Demo]) -> None:
    demo = await start()
    demos.append(demo)
    await demo.read_until("Four commands to try")
    for _ in range(4):
        await demo.read_until("  ")
    commands = [line.strip() for line in demo.lines[-4:]]
    for command in commands:
        process = await asyncio.create_subprocess_shell(
            command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, (command, output.decode())
        assert output
    demo.process.send_signal(signal.SIGINT)
    assert await demo.finish() == 0
    assert re.fullmatch(r"demo ok: \d+ reads, 0 failed", demo.lines[-1])
    await until(lambda: not demo.leftovers(), demo.leftovers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_ended_in_the_middle_it_leaves_nothing(
    demos: list[Demo], number: signal.Signals
) -> None:
    demo = await start()
    demos.append(demo)
    await demo.read_until("3. Create the index")
    demo.process.send_signal(number)
    assert await demo.finish() == (-number if number is signal.SIGKILL else 130)
    assert "Traceback" not in "\n".join(demo.lines)
    await until(lambda: not demo.leftovers(), demo.leftovers)
