"""The Ray cluster a job runs on: joining or starting one, and how much of it the engine actors may have."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import ray
import ray.data

from darkroom.batch.errors import ClusterError

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


def connect(address: str | None, verbose: bool) -> None:
    """Joins the cluster at `address`, or starts one on this machine, quiet and with no dashboard."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray Data asks for a Prometheus to gather them from
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = verbose
    context.retried_io_errors = []  # our own storage layer retries, and knows what it is retrying
    context.raise_original_map_exception = True  # Ray's wrapper loses what it wraps on its way between processes
    if not verbose:
        _hush()
    if ray.is_initialized():
        return
    level = "info" if verbose else "error"
    local = {} if address else {"include_dashboard": False, "object_store_memory": 512 * 2**20}
    try:
        with nullcontext() if verbose else _closed_stderr():
            ray.init(address=address or "local", logging_level=level, log_to_driver=verbose, **local)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(f"no Ray cluster at {address or 'this machine'}: {error}") from error


def _hush() -> None:
    """Ray Data prints what a worker raised twice, with its stack; we say it in one sentence. Its log files have it."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


@contextmanager
def _closed_stderr() -> Iterator[None]:
    """Ray's C++ side greets on stderr that it will be quiet. What goes wrong in there comes as an exception."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def size_pool(stages: int, workers: int | None) -> Pool:
    """Engine actors per stage, from what the cluster has: one per GPU and stage, else one in all for its processors.

    On processors the actors share three quarters of them, so that tasks always find room beside them. ClusterError if
    the cluster is too small.
    """
    have = ray.cluster_resources()
    gpus, cpus = have.get("GPU", 0.0), have.get("CPU", 0.0)
    count = workers or max(1, int(gpus) // stages)
    if gpus:
        share = min(1.0, gpus / (count * stages))
        return Pool(count, ACTOR_CPUS, share if share == 1.0 else int(share * 100) / 100)
    each = int(75 * cpus / (count * stages)) / 100
    if each < ACTOR_CPUS:
        raise ClusterError(
            f"{count} workers for each of {stages} stages want at least a quarter of a processor each, and reading and "
            f"storing want some too; the cluster has {cpus:g}: ask for fewer --workers"
        )
    return Pool(count, each, 0.0)
