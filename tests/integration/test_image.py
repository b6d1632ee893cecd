"""The image by its Dockerfile: how it is built, and that Quickwit's chart can start it.

There is no engine to build it: the entry point runs from these sources, on a file system that
cannot be written to, as a user without a name.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.deployed import Container, Deployment, Probe, Running, deployment
from tests.support.image import DOCKERFILE, ROOT, image
from tests.support.postgres import Scratch

CHART = yaml.safe_load((ROOT / "tests/facts/quickwit_chart.yaml").read_text())
REQUIREMENTS = ROOT / "config/docker/requirements.txt"
IGNORED = DOCKERFILE.with_name("Dockerfile.dockerignore")
READ_ONLY = ROOT / "tests/support/readonly_root.sh"


def test_a_linter_finds_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None
    found = subprocess.run(
        [program, str(DOCKERFILE)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_it_is_built_in_stages_on_pinned_bases() -> None:
    bases = [one.value.split(" AS ")[0] for one in image().all("FROM")]
    assert len(bases) == 2
    assert {re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base) is None for base in bases} == {
        False
    }


def test_the_image_is_small_and_can_build_nothing() -> None:
    last = " ".join(one.value for one in image().stages[-1] if one.name == "RUN")
    assert "pip uninstall --yes pip setuptools wheel" in last
    assert not re.search(r"\b(apt-get|apk|curl|wget|git|pip install|gcc|make)\b", last)
    copied = [one.words for one in image().stages[-1] if one.name == "COPY"]
    assert copied == [
        ["--from=build", "/opt/metastore-proxy", "/opt/metastore-proxy"],
        ["config/docker/node.yaml", "/quickwit/node.yaml"],
    ]


def test_it_runs_as_the_user_of_quickwits_chart_and_not_as_root() -> None:
    assert image().last("USER").value == f"{CHART['user']}:{CHART['user']}"


def test_it_takes_its_config_and_data_where_quickwits_image_does() -> None:
    environment = image().environment
    assert environment["QW_CONFIG"] == CHART["env"]["QW_CONFIG"]
    assert environment["QW_DATA_DIR"] == CHART["config"]["data_dir"]
    assert environment["QW_LISTEN_ADDRESS"] == "0.0.0.0"
    assert image().last("WORKDIR").value == "/quickwit"


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    lines = [line for line in IGNORED.read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copied = {
        source
        for one in image().all("COPY")
        if not one.value.startswith("--from")
        for source in one.words[:-1]
    }
    assert copied == set(sent)
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert not any(fnmatch.fnmatch(".env", pattern) for pattern in sent)


def pins() -> dict[str, str]:
    """Return the versions that the image installs, by normal name."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and line[0] != "#"]
    pairs = [line.split("==") for line in lines]
    return {name.replace("_", "-").lower(): version for name, version in pairs}


def needs(distribution: str, *extras: str) -> list[Requirement]:
    """Return what a distribution that is installed here needs."""
    found = [Requirement(text) for text in metadata.requires(distribution) or ()]
    wanted = [{"extra": extra} for extra in ("", *extras)]
    return [
        one for one in found if one.marker is None or any(one.marker.evaluate(e) for e in wanted)
    ]


def test_every_dependency_is_pinned_to_a_version_that_will_do() -> None:
    pinned = pins()
    # What a distribution of another version needs is not known here.
    known = [name for name, version in pinned.items() if installed(name) == version]
    wanted = needs("metastore-proxy", "otlp") + [one for name in known for one in needs(name)]
    assert len(wanted) > 10
    missing = [
        str(one)
        for one in wanted
        if not one.specifier.contains(pinned.get(one.name.replace("_", "-").lower(), "0"))
    ]
    assert missing == []


def installed(name: str) -> str:
    """Return the version that is installed here, "" if none is."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def launchers(root: Path) -> list[tuple[str, ...]]:
    """Return how to run a command on a read-only file system, the best way first."""
    readonly = ("sh", str(READ_ONLY), str(root))
    user = str(CHART["user"])
    drop = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env")
    ways = [("unshare", "--mount", "--user", "--map-root-user", *readonly)]
    return [("unshare", "--mount", *readonly, *drop), *ways] if os.geteuid() == 0 else ways


def start_readonly(deployed: Deployment, container: Container) -> Running:
    """Start a container on a read-only file system, with no directory for temporary files."""
    root = deployed.directory / "root"
    root.mkdir()
    reasons = []
    for way in launchers(root):
        probe = subprocess.run(
            [*way, sys.executable, "-c", "import proxy"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(deployed.directory)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if probe.returncode == 0:
            return deployed.start(replace(container, launcher=(*way, "env", "-u", "TMPDIR")))
        reasons.append(probe.stderr.strip())
    pytest.skip(f"no file system can be made read-only here: {reasons}")


async def test_quickwits_chart_can_start_it_on_a_read_only_file_system(
    migrated_database: Scratch, tmp_path: Path
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump(CHART["config"]))
    probe = CHART["probes"]["readiness"]
    container = Container(
        "quickwit-headless",
        (*image().entrypoint, *CHART["args"]),
        {
            **image().environment,
            **CHART["env"],
            "QW_METASTORE_URI": migrated_database.primary_uri,
        },
        {CHART["env"]["QW_CONFIG"]: config},
        Probe(port=probe["port"], path=probe["path"]),
    )
    async with deployment(["quickwit-headless"]) as deployed:
        running = start_readonly(deployed, container)
        await deployed.wait_healthy("quickwit-headless")
        for name in ("startup", "liveness", "readiness"):
            probe = CHART["probes"][name]
            assert await running.passes(Probe(port=probe["port"], path=probe["path"]))
        # The image's own check reads the same config, and finds the same node.
        running.container = replace(container, probe=Probe(command=image().health_command))
        assert await deployed.healthy("quickwit-headless")
        assert await running.terminate() == 0
        assert not await deployed.healthy("quickwit-headless")
