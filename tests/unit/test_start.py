"""What a process loads at its start: nobody waits for what another role or subcommand needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from proxy.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
SERVER = {"aiohttp", "prometheus_client"}
DATABASE = {"asyncpg"}
GRPC = {"grpc"}
ANY = SERVER | DATABASE | GRPC | {"opentelemetry", "proxy.node", "proxy.router_node"}
# Runs the program, but for what a parent of workers becomes; then tells what it has loaded.
PROGRAM = """
import os, sys
def told(*became):
    print(*sys.modules, "became" if became else "")
    sys.stdout.flush()
    os._exit(0)
os.execv = told
from proxy.__main__ import main
try:
    main(sys.argv[1:])
finally:
    told()
"""


def loaded(*command: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", *command], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], ANY),
        (["check-config"], ANY),
        (["drain", "--data-dir", "{empty}"], ANY),
        (["status", "--node", "127.0.0.1:1"], ANY - GRPC),
        (["explain", "ListSplits", "--router", "127.0.0.1:1"], ANY - GRPC),
        (["call", "NoSuchRpc"], ANY - GRPC),
        (["migrate", "--config", "{empty}/none.yaml"], ANY - DATABASE - GRPC),
        (["run", "--workers", "2", "--config", "{empty}/node.yaml"], ANY),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_a_subcommand_loads_what_it_needs(
    tmp_path: Path, arguments: list[str], unwanted: set[str]
) -> None:
    # Of several workers, so that `run` ends when its process becomes their parent.
    (tmp_path / "node.yaml").write_text(
        "version: 0.8\nenabled_services: [metastore_router]\nproxy: {primary: ['127.0.0.1:1']}\n"
    )
    found = loaded(PROGRAM, *(one.format(empty=tmp_path) for one in arguments))
    name = arguments[0].replace("-", "_")
    assert {"proxy.__main__"} | ({f"proxy.commands.{name}"} - {"proxy.commands.__help"}) <= found
    assert not found & unwanted
    assert ("became" in found) is (name == "run")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("proxy.router_node", DATABASE | {"opentelemetry", "proxy.demo"}),
        ("proxy.node", {"opentelemetry", "proxy.demo"}),
        ("proxy.healthcheck", ANY | {"asyncio"}),
    ],
)
def test_a_role_loads_what_it_needs(module: str, unwanted: set[str]) -> None:
    found = loaded(f"import sys, {module}; print(*sys.modules)")
    assert module in found
    assert not found & unwanted


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION
