"""Ray Train, all of it: workers that share every batch, restarted from the last checkpoint when one of them dies."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from darkroom import metrics
from darkroom.cluster import ClusterError, beside, free
from darkroom.storage import StorageError, open_store
from darkroom.training.feeds import Worker
from darkroom.training.recipes.recipe import Recipe

# Without a sign of life from any worker. Ray Train waits for room without end, and so would a schedule's next night.
SAID_SECONDS, SILENCE_SECONDS = 60.0, 3600.0
RESTARTS = 3  # after deaths of workers; what the user's input or the numbers cause is never tried again
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

    Raises what a worker met: ValueError, FloatingPointError, StorageError; ClusterError when the workers keep dying, or
    find no room.
    """
    journal = ray.remote(**beside())(_Journal).remote()
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={"recipe": recipe, "data": data, "out": out, "journal": journal},
        scaling_config=_scaling(workers),
        run_config=RunConfig(
            name=f"darkroom-{uuid.uuid4().hex[:12]}",
            # Of Ray's own notes; our checkpoints go to the run, with whatever storage it has.
            storage_path=os.path.join(tempfile.gettempdir(), "darkroom-train"),
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    error = _relay(trainer, journal, say)
    outcome = ray.get(journal.outcome.remote())
    if outcome is not None and outcome[0] in _KINDS:
        raise _KINDS[outcome[0]](outcome[1])
    if error is not None:
        raise ClusterError(f"the training's workers died more than {RESTARTS} times; the last time: {_shortly(error)}")


def _scaling(workers: Workers) -> ScalingConfig:
    have = ray.cluster_resources()
    if have.get("GPU", 0):
        return ScalingConfig(num_workers=workers.scaling, use_gpu=True)
    # A quarter of the processors stays free: streamed data is read by tasks that need some.
    share = max(0.5, int(0.75 * have.get("CPU", 1) / workers.most * 4) / 4)
    return ScalingConfig(num_workers=workers.scaling, resources_per_worker={"CPU": share})


def _relay(trainer: TorchTrainer, journal: Any, say: Callable[[str], None]) -> BaseException | None:
    """Runs the trainer and says what its workers say; what it ended with. ClusterError where it waits without end."""
    said, waits, fit = 0, False, _Fit(trainer)
    fit.start()
    while True:
        over = not fit.is_alive()
        lines, silence = ray.get(journal.since.remote(said))
        for line in lines:
            say(line)
        said += len(lines)
        if over:
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
    each = {"CPU": 1, "GPU": 1} if scaling.use_gpu else scaling.resources_per_worker
    wants = ", ".join(f"{count:g} {kind}" for kind, count in each.items())
    count = scaling.num_workers if isinstance(scaling.num_workers, int) else " to ".join(map(str, scaling.num_workers))
    return f"{count} want {wants} each; {free()}"


def _train_on_worker(given: dict[str, Any]) -> None:
    """What every worker does. An error that another try would meet again is noted, and is not Ray's to retry."""
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    journal = given["journal"]
    journal.lives.remote()

    def note(images: int, loss: float) -> None:
        metrics.trained(given["out"], images, loss)
        journal.lives.remote()

    worker = Worker(context.get_world_rank(), context.get_world_size(), device, note)
    try:
        say = lambda line: journal.say.remote(line)  # noqa: E731
        given["recipe"].train(given["data"], open_store(given["out"]), worker, say)
    except (ValueError, FloatingPointError, StorageError) as error:
        kind = next(name for name, known in _KINDS.items() if isinstance(error, known))
        ray.get(journal.fail.remote(kind, str(error)))


class _Journal:
    """An actor that the workers tell what the user should read."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._outcome: tuple[str, str] | None = None
        self._heard = time.monotonic()

    def lives(self) -> None:
        self._heard = time.monotonic()

    def say(self, line: str) -> None:
        self._lines.append(line)
        self.lives()

    def since(self, count: int) -> tuple[list[str], float]:
        """The lines after so many, and the seconds since a worker was heard of."""
        return self._lines[count:], time.monotonic() - self._heard

    def fail(self, kind: str, message: str) -> None:
        self._outcome = self._outcome or (kind, message)

    def outcome(self) -> tuple[str, str] | None:
        return self._outcome


def _shortly(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
