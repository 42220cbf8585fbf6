"""An engine at work in a thread of its own: nothing that waits on storage or reads JSON stands between two passes. It
is made smaller where the device's memory ends."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.batch.row_state import is_device_lost
from darkroom.batch.stuck import Guard
from darkroom.models.compiled import Mode, mode_in_use
from darkroom.models.errors import ModelError
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.engine import Engine, Failed, Finished, Predictor
from darkroom.sampling.plans import Plan
from darkroom.storage import StorageError

GATHER_SECONDS, LOOK_SECONDS = 0.2, 0.005  # of an idle engine, for a full pass to begin with


@dataclass(frozen=True, eq=False)
class Sample:
    """A row at the end of a stage: image float32 [C, H, W] on the host, decoded where the state is a latent; dtype,
    capacity and compile (see `mode_in_use`): of every pass it was in."""

    image: Tensor
    evaluations: int
    seconds: float
    dtype: str
    capacity: int
    compile: Mode = "off"

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.image).all())


class EngineThread(threading.Thread):
    """Takes plans by `submit` and gives each its `Sample`, or `Failed` where that row alone is to blame.

    name: what the stage is called in errors; decodes: its states are latents; guard: of its passes. What is no row's
    fault ends the thread, and is raised for all that wait and all that come: ClusterError, for want of memory where not
    even passes of one evaluation fit.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        dtype: str,
        capacity: int,
        decodes: bool = False,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(name=f"engine of {name}", daemon=True)
        self.stage, self.predictor, self.dtype, self.decodes = name, predictor, dtype, decodes
        self.engine, self.capacity = Engine(predictor, capacity), capacity
        self.guard = guard or Guard(None)
        self.statistics = self.engine.statistics  # of all engines that it ever has
        self._inbox: queue.SimpleQueue[tuple[Plan, Future[Sample | Failed]]] = queue.SimpleQueue()
        self._under_way: dict[Future[Sample | Failed], Plan] = {}
        self._undecoded: deque[Finished] = deque()
        self._lock, self._ended = threading.Lock(), None  # what ended it, if anything has
        self._expected = 0
        self.start()

    def submit(self, plan: Plan) -> Future[Sample | Failed]:
        """The plan's picture, some time."""
        future: Future[Sample | Failed] = Future()
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._inbox.put((plan, future))
        return future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """A plan is being made, and may be submitted in here: an idle engine waits for it a little."""
        with self._lock:
            self._expected += 1
        try:
            yield
        finally:
            with self._lock:
                self._expected -= 1

    def run(self) -> None:
        try:
            while True:
                self._take_in()
                self.guard.begin()
                self._make_pass()
                self.guard.end(idle=self.engine.idle)
        except Exception as error:
            self._end(error)

    def _take_in(self) -> None:
        """Hands what has come to the engine; waits for it where there is nothing else to do. What begins then begins
        with a full pass if it can, as one that holds a single row takes as long."""
        gather_until = 0.0
        if self.engine.idle and not self._undecoded:
            self._hand_on(*self._inbox.get())
            gather_until = time.monotonic() + GATHER_SECONDS
        while True:
            gathers = self._expected and self.engine.has_room and time.monotonic() < gather_until
            try:
                self._hand_on(*self._inbox.get(gathers, LOOK_SECONDS))
            except queue.Empty:
                if not gathers:
                    return

    def _hand_on(self, plan: Plan, future: Future[Sample | Failed]) -> None:
        if future.set_running_or_notify_cancel():  # from here on nobody can take it back
            self._under_way[future] = plan
            self.engine.add(plan, future)

    def _make_pass(self) -> None:
        """One pass of the engine; what is finished is decoded. Nothing is lost where memory ends on the way."""
        shortage = ""
        try:
            for result in self.engine.advance():
                if isinstance(result, Failed):
                    self._give(result.tag, result)
                else:
                    self._undecoded.append(result)
            while self._undecoded:
                self._give(self._undecoded[0].tag, self._finish(self._undecoded[0]))
                self._undecoded.popleft()
        except torch.OutOfMemoryError as error:
            shortage = str(error)
        if shortage:  # out here, where the error's frames no longer hold what they allocated
            self._shrink(shortage)

    def _give(self, future: Future[Sample | Failed], result: Sample | Failed) -> None:
        del self._under_way[future]
        future.set_result(result)

    def _finish(self, finished: Finished) -> Sample | Failed:
        try:
            image = self.predictor.decode(finished.image).cpu() if self.decodes else finished.image
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if is_device_lost(error) or not self._decodes_nothing(finished.image):
                raise
            return Failed(finished.tag, error.with_traceback(None), finished.evaluations, finished.seconds)
        ran = (self.dtype, self.capacity, mode_in_use(self.predictor))
        return Sample(image, finished.evaluations, finished.seconds, *ran)

    def _decodes_nothing(self, state: Tensor) -> bool:
        """Whether latents of zeros can be decoded: if they cannot, no row is to blame."""
        try:
            self.predictor.decode(torch.zeros_like(state))
        except (RuntimeError, ValueError):
            return False
        return True

    def _shrink(self, shortage: str) -> None:
        """Half the capacity. Rows under way begin anew, so that each picture is the one of a single capacity; as every
        pass has one shape, memory mostly ends in the first."""
        if self.capacity == 1:
            raise ClusterError(f"{self.stage} does not fit its device, not even with one evaluation a pass: {shortage}")
        self.capacity //= 2
        smaller = Engine(self.predictor, self.capacity)
        smaller.statistics = self.statistics
        walked = {finished.tag for finished in self._undecoded}
        for future, plan in self._under_way.items():
            if future not in walked:
                smaller.add(plan, future)
        self.engine = smaller
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _end(self, error: Exception) -> None:
        """Nothing comes any more, of what waits and of what is yet to come."""
        ours = isinstance(error, (ClusterError, StorageError, ModelError))
        said = f"{self.stage} ended, and no row is to blame: {type(error).__name__}: {error}"
        ended = error.with_traceback(None) if ours else ClusterError(said)  # its frames hold the weights
        self.guard.end(idle=True)
        del self.engine, self.predictor  # before anybody hears of it, who may want their room
        with self._lock:
            self._ended = ended
        waiting = list(self._under_way)
        while not self._inbox.empty():
            waiting.append(self._inbox.get()[1])
        for future in waiting:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(ended)
        self._under_way.clear()
