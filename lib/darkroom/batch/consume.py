"""Reading a Ray data set as its rows come, with an end to silence and errors in plain words."""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import Dataset

from darkroom.batch.errors import Stalled
from darkroom.batch.watch import Watchdog
from darkroom.cluster import ClusterError, free
from darkroom.storage import StorageError


class _Consumer(threading.Thread):
    """Reads a dataset into a queue. A daemon, because waiting for Ray cannot be given up from outside: an exit does not
    wait for it."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(name="consumer", daemon=True)
        self.dataset: Dataset | None = dataset
        self.rows = queue.Queue[dict[str, Any]]()
        self.error: ray.exceptions.RayError | None = None
        self.complete = False

    def run(self) -> None:
        try:
            for block in self.dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in block.to_pylist():
                    self.rows.put(row)
            self.complete = True
        except ray.exceptions.RayError as error:
            self.error = error
        self.dataset = None

    def take_failure(self) -> Exception | None:
        """What ended it, if anything did, and without Ray's own error: the traceback of that refers to actors, and they
        live, and hold their processors, while anything does. Whoever catches this may keep it and wait for those."""
        if self.error is None:
            return None
        failure, self.error = _plain(self.error), None
        gc.collect()
        return failure


def watched(dataset: Dataset, watchdog: Watchdog, what: str, counter: Any | None = None) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they come. Stalled when none comes for too long; else what a worker raised, unwrapped if it
    is ours, and ClusterError when Ray itself gave up."""
    consumer = _Consumer(dataset)
    del dataset  # else what is raised here would refer to it, see `take_failure`
    consumer.start()
    while consumer.is_alive() or not consumer.rows.empty():
        try:
            row = consumer.rows.get(timeout=0.5)
        except queue.Empty:
            if watchdog.expired:
                raise Stalled(_silence(watchdog, what, counter)) from None
            continue
        watchdog.beat()
        yield row
    if failure := consumer.take_failure():
        raise failure
    if not consumer.complete:
        raise ClusterError("Ray Data ended before its time; its error is above")


def _plain(error: ray.exceptions.RayError) -> Exception:
    """What a worker's error was before Ray wrapped it; an error of Ray's own as a ClusterError; else as it is."""
    from darkroom.models.errors import ModelError

    cause: BaseException = error
    while isinstance(cause, ray.exceptions.RayTaskError):
        cause = cause.cause
    if isinstance(cause, (StorageError, ModelError, ClusterError)):
        cause.args = (str(cause).partition("\nFailed to ")[0],)  # Ray Data adds advice on its retries
        return cause
    if isinstance(cause, ray.exceptions.RayError):
        return ClusterError(f"Ray gave up: {type(cause).__name__}: {cause}")
    return error


def _silence(watchdog: Watchdog, what: str, counter: Any | None) -> str:
    lines = [f"no {what} for {watchdog.silence:.0f} s, the limit is {watchdog.limit:.0f} s"]
    try:
        lines += ray.get(counter.lines.remote(), timeout=10) if counter else []
    except (ray.exceptions.RayError, TimeoutError) as error:
        lines.append(f"the stages' counter does not answer ({type(error).__name__})")
    return "\n  ".join([*lines, free()])
