"""How much of the cluster the engine actors may have."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from darkroom.cluster import ClusterError

ACTOR_CPUS = 0.25  # at least


@dataclass(frozen=True)
class Pool:
    """How the engine actors of each stage are sized; see `size_pool`."""

    workers: int
    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


def size_pool(stages: int, workers: int | None) -> Pool:
    """Engine actors per stage, from what the cluster has: one per GPU and stage, else one in all for its processors.

    On processors the actors share three quarters of them, so that tasks always find room beside them, and none asks for
    more than a node has. ClusterError if the cluster is too small.
    """
    have = ray.cluster_resources()
    gpus, cpus = have.get("GPU", 0.0), have.get("CPU", 0.0)
    count = workers or max(1, int(gpus) // stages)
    if gpus:
        share = min(1.0, gpus / (count * stages))
        return Pool(count, ACTOR_CPUS, share if share == 1.0 else int(share * 100) / 100)
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    each = int(75 * min(cpus / (count * stages), largest)) / 100
    if each < ACTOR_CPUS:
        raise ClusterError(
            f"{count} workers for each of {stages} stages want at least a quarter of a processor each, and reading and "
            f"storing want some too; the cluster has {cpus:g}: ask for fewer --workers"
        )
    return Pool(count, each, 0.0)
