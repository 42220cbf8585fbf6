"""Ray Train, all of it: workers that share every batch, restarted from the last checkpoint when one of them dies."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from darkroom import metrics
from darkroom.ray_cluster import ClusterError, beside, free, node_resources
from darkroom.sampling.out_of_memory import naming_out_of_memory
from darkroom.storage import StorageError, open_store
from darkroom.storage.patience import announce_by
from darkroom.training.feeds import Worker
from darkroom.training.journal import Journal
from darkroom.training.recipes.recipe import Recipe

# Without a sign of life from any worker. Ray Train waits for room without end, and so would a schedule's next night.
SAID_SECONDS, SILENCE_SECONDS = 60.0, 3600.0
ENDING_SECONDS = 120.0  # of patience with workers that are to end because one met a final error
RESTARTS = 3  # after deaths of workers; what the user's input, the numbers or the storage cause is never tried again
_KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (ValueError, FloatingPointError, StorageError)}


@dataclass(frozen=True)
class Workers:
    """How many workers: a fixed number, or as many from `least` to `most` as the cluster has room for."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Workers:
        """ "2", or "2:8". ValueError for anything else."""
        least, colon, most = text.partition(":")
        try:
            workers = cls(int(least), int(most if colon else least))
        except ValueError:
            raise ValueError(f"--workers {text}: wanted a number, or a range such as 2:8") from None
        if not 1 <= workers.least <= workers.most:
            raise ValueError(f"--workers {text}: wanted at least 1, and the smaller number first")
        return workers

    @property
    def scaling(self) -> int | tuple[int, int]:
        return self.least if self.least == self.most else (self.least, self.most)


def train_distributed(recipe: Recipe, data: str, out: str, workers: Workers, say: Callable[[str], None]) -> None:
    """Trains on the connected Ray cluster, a GPU for each worker if it has any; returns when the model is there.

    Raises what a worker met: ValueError, FloatingPointError, StorageError; ClusterError when the workers keep failing
    in another way, or find no room.
    """
    try:
        journal = ray.remote(**beside())(Journal).remote()
        trainer = TorchTrainer(
            _train_on_worker,
            train_loop_config={"recipe": recipe, "data": data, "out": out, "journal": journal},
            torch_config=_OwnDevice(),
            scaling_config=_scaling(workers),
            run_config=RunConfig(
                name=f"darkroom-{uuid.uuid4().hex[:12]}",
                # Of Ray's own notes; our checkpoints go to the run, with whatever storage it has.
                storage_path=os.path.join(tempfile.gettempdir(), "darkroom-train"),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        )
        error = _relay(trainer, journal, say)
        final = ray.get(journal.final.remote())
    except ray.exceptions.RayError as lost:
        raise ClusterError(f"the training lost its Ray cluster: {_first_line(lost)}") from lost
    if final is not None:
        raise _KINDS[final[0]](final[1])
    if error is not None:
        raise ClusterError(f"the training's workers failed more than {RESTARTS} times; the last time: {_why(error)}")


def _scaling(workers: Workers) -> ScalingConfig:
    have = node_resources()
    processors, gpus = ([node.get(kind, 0) for node in have] for kind in ("CPU", "GPU"))
    on_gpus = any(gpus)
    each = {"CPU": cpu_share(processors, workers.most, gpus if on_gpus else None)} | ({"GPU": 1} if on_gpus else {})
    return ScalingConfig(num_workers=workers.scaling, use_gpu=on_gpus, resources_per_worker=each)


def cpu_share(processors: Sequence[float], workers: int, gpus: Sequence[float] | None = None) -> float:
    """How many processors to ask for each of so many workers, on nodes of so many processors: the most, in quarters,
    with which all workers fit now; a quarter of one where they do not, as on a cluster that is still to grow. gpus: of
    the nodes, where each worker has one; it then asks for one processor at most.

    A quarter of a node's processors stays free: streamed data is read by tasks that need some.
    """
    rooms = [int(3 * count) for count in processors]  # in quarters of a processor: 0.75 of the node, times 4
    most = max(rooms, default=1) if gpus is None else 4
    places = [float("inf")] * len(rooms) if gpus is None else gpus

    def fit(share: int) -> float:
        return sum(min(room // share, place) for room, place in zip(rooms, places, strict=True))

    return next((share for share in range(most, 0, -1) if fit(share) >= workers), 1) / 4


class _OwnDeviceBackend(TorchConfig().backend_cls):
    """Ray's own choice goes by what was asked for, and NCCL dies where Ray was told of a GPU that torch does not find
    (one that is no NVIDIA card, a driver that is too old, a test). So the workers are asked, once they are where they
    are: before, nobody knows which node they come to, and a question of its own would have to wait for a GPU too."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        found = all(worker_group.execute(torch.cuda.is_available))
        super().on_start(worker_group, replace(backend_config, backend="nccl" if found else "gloo"))


class _OwnDevice(TorchConfig):
    """A process group of what the workers have: NCCL where all have a GPU, else gloo."""

    @property
    def backend_cls(self) -> type:
        return _OwnDeviceBackend


def _relay(trainer: TorchTrainer, journal: Any, say: Callable[[str], None]) -> Exception | None:
    """Runs the trainer and says what its workers say; what it ended with. ClusterError where it waits without end."""
    said, waits, final, fit = 0, False, None, _Fit(trainer)
    fit.start()
    while True:
        over = not fit.is_alive()
        lines, silence, ends = ray.get(journal.since.remote(said))
        for line in lines:
            say(line)
        said += len(lines)
        if ends and final is None:
            final = time.monotonic()
        if over or (final is not None and time.monotonic() - final > ENDING_SECONDS):
            return fit.error
        if silence > SILENCE_SECONDS:
            raise ClusterError(f"no worker of the training was heard of for {silence:.0f} s; {_asked(trainer)}")
        if silence > SAID_SECONDS and not waits:
            say(f"no worker of the training was heard of for {silence:.0f} s, still waiting; {_asked(trainer)}")
        waits = silence > SAID_SECONDS
        time.sleep(0.5)


class _Fit(threading.Thread):
    """Runs a trainer. A daemon: an interrupted job does not wait for the training's end."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="fit", daemon=True)
        self.trainer = trainer
        self.error: Exception | None = ClusterError("Ray Train ended before its time; its error is above")

    def run(self) -> None:
        try:
            self.trainer.fit()
            self.error = None
        except (TrainingFailedError, ray.exceptions.RayError) as error:
            self.error = error


def _asked(trainer: TorchTrainer) -> str:
    scaling = trainer.scaling_config
    wants = ", ".join(f"{count:g} {kind}" for kind, count in scaling.resources_per_worker.items())
    count = scaling.num_workers if isinstance(scaling.num_workers, int) else " to ".join(map(str, scaling.num_workers))
    return f"{count} want {wants} each; {free()}"


def _train_on_worker(given: dict[str, Any]) -> None:
    """What every worker does. An error that another try would meet again is noted, and then raised: Ray ends the other
    workers, who may be waiting for this one, and the try after it finds the note and ends at once."""
    journal = given["journal"]
    if ray.get(journal.final.remote()) is not None:
        return
    context = ray.train.get_context()
    # Where the group is gloo's, not all workers have a GPU, whatever Ray was told of this one's node.
    gpu = torch.distributed.get_backend() == "nccl"
    device = ray.train.torch.get_device() if gpu else torch.device("cpu")
    if not gpu:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    journal.lives.remote()

    def note(images: int, loss: float) -> None:
        metrics.trained(given["out"], images, loss)
        journal.lives.remote()

    worker = Worker(context.get_world_rank(), context.get_world_size(), device, note)
    try:
        say = lambda line: journal.say.remote(line)  # noqa: E731
        announce_by(say)
        _train(given["recipe"], given["data"], given["out"], worker, say)
    except tuple(_KINDS.values()) as error:
        # Without its group the worker is being ended for another's death, and torch raises ValueErrors of its own.
        if torch.distributed.is_initialized():
            kind = next(name for name, known in _KINDS.items() if isinstance(error, known))
            ray.get(journal.end.remote(kind, str(error)))
        raise


def _train(recipe: Recipe, data: str, out: str, worker: Worker, say: Callable[[str], None]) -> None:
    """ValueError, besides what the recipe raises, where it does not fit the worker's device."""
    try:
        with naming_out_of_memory():
            recipe.train(data, open_store(out), worker, say)
    except torch.OutOfMemoryError as error:
        shared = f", shared by {worker.count} workers," if worker.count > 1 else ""
        raise ValueError(
            f"the training of {recipe.name} with batch={recipe.batch}{shared} does not fit {worker.device}: wanted "
            f"{recipe.lighter} ({str(error).partition(chr(10))[0]})"
        ) from None


def _why(error: Exception) -> str:
    """What ended a trainer, in a line: each kind of failure once, as most workers only lost the one that failed."""
    if not isinstance(error, WorkerGroupError):
        return _first_line(getattr(error, "controller_failure", error))
    told: dict[str, int] = {}
    for rank, failure in sorted(error.worker_failures.items()):
        told.setdefault(_first_line(failure), rank)
    return "; ".join(f"worker {rank}: {line}" for line, rank in list(told.items())[:3])


def _first_line(error: BaseException) -> str:
    """An error's kind and its first line; of what it stands for, where Ray wrapped it."""
    error = getattr(error, "health_check_failure", error)
    error = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
