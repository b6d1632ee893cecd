"""Ends the servers of a demo or test, and removes their directory, whatever becomes of its owner.

The owner starts this file as a process of its own and keeps the write end of its standard input.
The kernel closes that end however the owner ends, SIGKILL included, and then this process does
the cleaning. It needs nothing but the standard library, so that it starts within milliseconds.

Protocol, one line each: `+<pid>` a process was started, `-<pid>` it has ended and was waited for.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

# PostgreSQL itself gives its processes 5 s to react to an immediate shutdown.
QUIT_BOUND: Final = 6.0
KILL_BOUND: Final = 2.0
POLL: Final = 0.01
IPC_RMID: Final = 0


class Watchdog:
    """The owner's handle. `close` makes the watchdog clean up now and waits until it has."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A signal to the terminal's foreground group must not reach the one who cleans up.
            start_new_session=True,
            cwd="/",
        )

    def started(self, pid: int) -> None:
        """Put a process under watch."""
        self._tell(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        """Release a process that was waited for: its number may now be given to another one."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        with suppress(BrokenPipeError):
            # One write per line: lines from several threads do not mix.
            os.write(pipe.fileno(), line.encode())

    def close(self, timeout: float = 2 * (QUIT_BOUND + KILL_BOUND)) -> None:
        """End what is still watched, remove the directory, wait for both. Idempotent."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def is_alive(pid: int) -> bool:
    """Tell whether a process still runs; one that ended but was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def wait_gone(pids: Iterable[int], bound: float) -> bool:
    """Wait up to `bound` seconds until none of the processes runs; tell whether that came true."""
    watched, deadline = list(pids), time.monotonic() + bound
    while any(is_alive(pid) for pid in watched):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def signal_all(pids: Iterable[int], number: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def remove(directory: Path, attempts: int = 50) -> bool:
    """Remove a directory tree; again while a process that is ending still writes into it."""
    for _ in range(attempts):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return True
        time.sleep(POLL)
    return False


def remove_shared_memory(directory: Path) -> None:
    """Remove what servers that were killed left in System V shared memory.

    Fact: the seventh line of `postmaster.pid` holds the key and the id of the segment.
    """
    for path in directory.glob("*/postmaster.pid"):
        with suppress(OSError, ValueError, IndexError):
            identifier = int(path.read_text().splitlines()[6].split()[1])
            ctypes.CDLL(None).shmctl(identifier, IPC_RMID, None)


def watch(lines: Iterable[str], directory: Path) -> None:
    """Follow the owner's lines to their end, then end the processes and remove the directory."""
    running: set[int] = set()
    for line in lines:
        change, pid = line[:1], line[1:].strip()
        if pid.isdigit():
            (running.add if change == "+" else running.discard)(int(pid))
    # SIGQUIT is PostgreSQL's immediate shutdown: it takes its children and shared memory with it.
    signal_all(running, signal.SIGQUIT)
    if not wait_gone(running, QUIT_BOUND):
        signal_all(running, signal.SIGKILL)
        wait_gone(running, KILL_BOUND)
    remove_shared_memory(directory)
    remove(directory)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    watch(sys.stdin, Path(sys.argv[1]))
