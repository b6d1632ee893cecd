"""A real Prometheus server on the loopback interface, and `promtool`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from proxy.demo.postgres_host import HOST, free_port
from proxy.demo.watchdog import Watchdog
from tests.support import debian, promtool
from tests.support.waiting import until

# Seconds between two scrapes: a rate needs two of them.
SCRAPE_INTERVAL: Final = 0.25


class Prometheus:
    """A server that scrapes nodes; `queries` are answered from what it has stored."""

    def __init__(self, http: aiohttp.ClientSession, url: str, log: Path) -> None:
        self._http = http
        self._url = url
        self._log = log

    async def _get(self, path: str, **parameters: str) -> Any:
        async with self._http.get(f"{self._url}{path}", params=parameters) as response:
            answer = await response.json()
            assert answer["status"] == "success", answer
            return answer["data"]

    async def is_ready(self) -> bool:
        """Whether the server answers queries."""
        try:
            async with self._http.get(f"{self._url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def query(self, expression: str) -> dict[str, float]:
        """Return the value of an instant query by job: of several series of one job, their sum."""
        found: dict[str, float] = {}
        for row in (await self._get("/api/v1/query", query=expression))["result"]:
            job = row["metric"].get("job", "")
            found[job] = found.get(job, 0.0) + float(row["value"][1])
        return found

    async def returns_data(self, expression: str) -> bool:
        """Whether an instant query returns anything."""
        return bool((await self._get("/api/v1/query", query=expression))["result"])

    async def rules(self) -> dict[str, str]:
        """Return the health of each rule, or its last error, by name; `unknown` before its turn."""
        groups = (await self._get("/api/v1/rules"))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return {rule["name"]: rule.get("lastError") or rule["health"] for rule in rules}

    async def names(self) -> dict[str, set[str]]:
        """Return the names of all series that have data now, by job."""
        found: dict[str, set[str]] = {}
        asked = 'group by (job, __name__) ({job!=""})'
        for row in (await self._get("/api/v1/query", query=asked))["result"]:
            found.setdefault(row["metric"]["job"], set()).add(row["metric"]["__name__"])
        return found

    async def targets(self) -> dict[str, str]:
        """Return the health of each target, or its last error, by job."""
        found = await self._get("/api/v1/targets", state="active")
        return {
            target["labels"]["job"]: target["lastError"] or target["health"]
            for target in found["activeTargets"]
        }

    def log(self) -> str:
        """Return what the server has logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@asynccontextmanager
async def prometheus(
    targets: Mapping[str, str], *rules: Path, interval: float = SCRAPE_INTERVAL
) -> AsyncIterator[Prometheus]:
    """Run a server that scrapes `targets` (`host:port` by job) and evaluates `rules`.

    `interval` is the seconds between two scrapes, and how long one may take.

    Skips the test where Prometheus cannot be had.
    """
    program = await _program("prometheus")
    directory = Path(tempfile.mkdtemp(prefix="metastore-proxy-prometheus-"))
    config, log = directory / "prometheus.yml", directory / "prometheus.log"
    document = {
        "global": {
            "scrape_interval": f"{interval * 1000:.0f}ms",
            "evaluation_interval": f"{interval * 1000:.0f}ms",
        },
        "rule_files": [str(path.resolve()) for path in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [address]}]}
            for job, address in targets.items()
        ],
    }
    # JSON is YAML as well.
    config.write_text(json.dumps(document), encoding="utf-8")
    address = f"{HOST}:{free_port()}"
    watchdog = Watchdog(directory)
    process = _start(
        [
            str(program),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
        ],
        log,
    )
    watchdog.started(process.pid)
    try:
        async with aiohttp.ClientSession() as http:
            server = Prometheus(http, f"http://{address}", log)
            await until(server.is_ready, server.log)
            yield server
    finally:
        process.kill()
        process.wait()
        watchdog.ended(process.pid)
        await asyncio.to_thread(watchdog.close)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


async def check_metrics(text: bytes) -> str:
    """Return what `promtool check metrics` finds in a scrape; empty if nothing."""
    status, said = await run_promtool("check", "metrics", text=text)
    return said or ("" if status == 0 else f"exit status {status}")


async def run_promtool(*arguments: str, text: bytes = b"") -> tuple[int, str]:
    """Return promtool's exit status and what it said."""
    program = await _program("promtool")
    done = await asyncio.to_thread(
        subprocess.run,
        [str(program), *arguments],
        input=text,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


async def _program(name: str) -> Path:
    try:
        return await asyncio.to_thread(promtool.binary, name)
    except debian.Missing as error:
        pytest.skip(str(error))
