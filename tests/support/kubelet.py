"""A cluster's controllers, as far as Deployments, Jobs and Services need them, on one machine.

Pods run as processes (`tests.support.deployed`). Facts: a Deployment with `maxSurge: 1` and
`maxUnavailable: 0` starts one pod, waits until it has been ready for `minReadySeconds`, deletes an
old one without waiting for its end, and goes on. A deleted pod gets SIGTERM at once, while Services
still name it for a moment; SIGKILL when its grace is over. Readiness is asked once the startup
probe has succeeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.deployed import DeployedError, Deployment, Running, deployment
from tests.support.manifests import (
    Manifest,
    container_of,
    named,
    of_kind,
    pod_template,
    selects,
)
from tests.support.pods import PodFacts, Pods, Secrets, probe_of

# Until every node's packet filter, and DNS, know that a pod goes.
PROPAGATION: Final = 1.0
# As a ReplicaSet names its pods: the hash of the template, then five letters.
_TEMPLATES: Final = ("7d9c8b9c5f", "6b8f4d7c9d")
_BOUND: Final = 60.0


@dataclass(eq=False)
class Pod:
    """A pod that runs. `listed` is whether Services may still name it."""

    owner: Manifest
    running: Running
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    listed: bool = True

    @property
    def name(self) -> str:
        """Its name."""
        return self.running.container.name

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        found: dict[str, str] = pod_template(self.owner)["metadata"]["labels"]
        return found


def replicas_of(manifests: list[Manifest], workload: Manifest) -> int:
    """Return how many pods a Deployment has at first: its own number, or its autoscaler's least."""
    if "replicas" in workload["spec"]:
        return int(workload["spec"]["replicas"])
    name = workload["metadata"]["name"]
    return int(named(manifests, "HorizontalPodAutoscaler", name)["spec"]["minReplicas"])


def _pod_names(manifests: list[Manifest], workload: Manifest, template: str) -> list[str]:
    count = replicas_of(manifests, workload)
    prefix = f"{workload['metadata']['name']}-{template}"
    return [f"{prefix}-pod{letter}{letter}" for letter in "abcdefgh"[:count]]


class ClusterRun:
    """The manifests, applied. `haste` is how many times faster `minReadySeconds` passes."""

    def __init__(
        self, manifests: list[Manifest], secrets: Secrets, deployed: Deployment, haste: float
    ) -> None:
        self.manifests = manifests
        self.deployed = deployed
        self._pods = Pods(manifests, secrets, deployed.directory)
        self._haste = haste
        self.pods: list[Pod] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def deployments(self) -> list[Manifest]:
        """The Deployments."""
        return of_kind(self.manifests, "Deployment")

    def endpoints(self, service: str) -> list[str]:
        """Return the addresses that a Service stands for. KeyError when there is none."""
        names = {one["metadata"]["name"]: one for one in of_kind(self.manifests, "Service")}
        spec = names[service]["spec"]
        anyhow = spec.get("publishNotReadyAddresses", False)
        return [
            pod.running.address
            for pod in self.pods
            if selects(pod.labels, {"matchLabels": spec["selector"]})
            and (anyhow or (pod.listed and pod.ready.is_set()))
        ]

    async def apply(self) -> None:
        """Start everything at once, as `kubectl apply` does; wait until all is up."""
        jobs = [self._start(job, f"{job['metadata']['name']}-x2k9q") for job in self._jobs]
        for workload in self.deployments:
            for name in _pod_names(self.manifests, workload, _TEMPLATES[0]):
                self._start_pod(workload, name)
        for job in jobs:
            if status := await job.wait_ended(_BOUND):
                raise DeployedError(f"{job.container.name} ended with {status}: {job.log_tail()}")
        await self._all_ready(self.pods)

    @property
    def _jobs(self) -> list[Manifest]:
        return of_kind(self.manifests, "Job")

    async def restart(self, workload: Manifest) -> None:
        """Replace the pods of a Deployment one by one, as `kubectl rollout restart` does."""
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        old = [pod for pod in self.pods if pod.owner is workload]
        names = _pod_names(self.manifests, workload, _TEMPLATES[1])
        for gone, name in zip(old, names, strict=True):
            made = self._start_pod(workload, name)
            await self._all_ready([made])
            # The controller counts a pod as available only after that time.
            await asyncio.sleep(workload["spec"]["minReadySeconds"] / self._haste)
            self._spawn(self._delete(gone))

    async def execute(self, service: str, *command: str) -> str:
        """Run a command in a pod of a Service, as `kubectl exec` does; return what it prints."""
        address = self.endpoints(service)[0]
        (pod,) = [one for one in self.pods if one.running.address == address]
        return await self.deployed.execute(pod.name, *command)

    async def settle(self) -> None:
        """Wait until every deleted pod has ended by itself; `DeployedError` where one did not."""
        while deleting := [task for task in self._tasks if task.get_name() == "delete"]:
            await asyncio.gather(*deleting)

    async def close(self) -> None:
        """End the controllers; the pods are the deployment's to end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any, name: str = "delete") -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start(self, workload: Manifest, name: str) -> Running:
        for service in of_kind(self.manifests, "Service"):
            found = [pod.name for pod in self.pods if pod.running.address in self._named(service)]
            if found:
                self.deployed.add_name(service["metadata"]["name"], *found)
        facts = PodFacts(name, self.deployed.addresses[name])
        return self.deployed.start(self._pods.container(workload, facts))

    def _named(self, service: Manifest) -> list[str]:
        return self.endpoints(service["metadata"]["name"])

    def _start_pod(self, workload: Manifest, name: str) -> Pod:
        pod = Pod(workload, self._start(workload, name))
        self.pods.append(pod)
        self._spawn(self._probe(pod), "probe")
        return pod

    async def _probe(self, pod: Pod) -> None:
        """Ask a pod as its kubelet does, with the periods and thresholds of the manifests."""
        described = container_of(pod.owner)
        startup, readiness = (described[kind] for kind in ("startupProbe", "readinessProbe"))
        for _ in range(startup["failureThreshold"]):
            if await pod.running.passes(probe_of(described, "startupProbe")):
                break
            await asyncio.sleep(startup["periodSeconds"])
        failures = 0
        while pod.listed:
            if await pod.running.passes(probe_of(described, "readinessProbe")):
                failures = 0
                pod.ready.set()
            else:
                failures += 1
            if failures >= readiness["failureThreshold"]:
                pod.ready.clear()
            await asyncio.sleep(readiness["periodSeconds"])

    async def _all_ready(self, pods: Iterable[Pod]) -> None:
        for pod in list(pods):
            try:
                await asyncio.wait_for(pod.ready.wait(), _BOUND)
            except TimeoutError as error:
                raise DeployedError(f"{pod.name} is not ready: {pod.running.log_tail()}") from error

    async def _delete(self, pod: Pod) -> None:
        spec = pod_template(pod.owner)["spec"]
        unlisted = asyncio.create_task(self._unlist(pod))
        grace = spec["terminationGracePeriodSeconds"]
        assert "lifecycle" not in container_of(pod.owner), "hooks are not run here"
        status = await pod.running.terminate(grace)
        await unlisted
        self.pods.remove(pod)
        if status != 0:
            raise DeployedError(f"{pod.name} ended with {status}: {pod.running.log_tail()}")

    async def _unlist(self, pod: Pod) -> None:
        await asyncio.sleep(PROPAGATION)
        pod.listed = False


@asynccontextmanager
async def cluster_run(
    manifests: list[Manifest], secrets: Secrets, haste: float = 1.0
) -> AsyncIterator[ClusterRun]:
    """Run the manifests; `apply` starts them. Leaves neither process nor directory."""
    jobs = of_kind(manifests, "Job")
    names = [f"{job['metadata']['name']}-x2k9q" for job in jobs] + [
        name
        for workload in of_kind(manifests, "Deployment")
        for template in _TEMPLATES
        for name in _pod_names(manifests, workload, template)
    ]
    async with deployment([*names, "quickwit"]) as deployed:
        # The headless Service of Quickwit's release: one pod, which may not be there.
        deployed.add_name("quickwit-headless", "quickwit")
        run = ClusterRun(manifests, secrets, deployed, haste)
        try:
            yield run
        finally:
            await run.close()
