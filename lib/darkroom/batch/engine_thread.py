"""An engine at work in a thread of its own: nothing that waits on storage or reads JSON stands between two passes. It
is made smaller where the device's memory ends."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from darkroom.batch.latents_thread import Keep, LatentsThread
from darkroom.batch.stuck import Guard
from darkroom.models.compiled import CompiledPredictor, Mode, forget_graphs, mode_in_use
from darkroom.models.errors import ModelError
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.buckets import Buckets
from darkroom.sampling.engine import Failed, Finished, Predictor
from darkroom.sampling.plans import Plan
from darkroom.sampling.stage import Shape
from darkroom.storage import StorageError

ROOM_SECONDS = 120.0  # that decoding waits for a pass to end, which may be one that compiles
GATHER_SECONDS, LOOK_SECONDS = 0.2, 0.005  # of an idle engine, for a full pass to begin with


@dataclass(frozen=True, eq=False)
class Sample:
    """A row at the end of a stage: image float32 [C, H, W] or, of a video, [C, F, H, W] on the host, decoded where the
    state is a latent; dtype, capacity and compile (see `mode_in_use`): of every pass it was in. memory: see
    `Finished`."""

    image: Tensor
    evaluations: int
    seconds: float
    dtype: str
    capacity: int
    compile: Mode = "off"
    memory: tuple[Tensor | None, ...] = ()

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.image).all())


class EngineThread(threading.Thread):
    """Takes plans by `submit` and gives each its `Sample`, or `Failed` where that row alone is to blame.

    name: what the stage is called in errors; decodes: its states are latents, whose pictures the predictor's VAE makes
    beside the passes; guard: of its passes; shape: of the states of which `capacity` make a pass, see `Buckets`. What
    is no row's fault ends the thread, and is raised for all that wait and all that come: ClusterError, for want of
    memory where not even passes of one evaluation fit.
    """

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        dtype: str,
        capacity: int,
        decodes: bool = False,
        guard: Guard | None = None,
        shape: Shape | None = None,
    ) -> None:
        super().__init__(name=f"engine of {name}", daemon=True)
        self.stage, self.predictor, self.dtype = name, predictor, dtype
        self.engine, self.capacity = Buckets(predictor, capacity, shape), capacity
        self.guard = guard or Guard(None)
        if isinstance(predictor, CompiledPredictor):
            predictor.told.append(self.guard.compiles)
        own = Guard(self.guard.floor, self.guard.first)
        self.latents = LatentsThread(name, predictor.latents, shape, self._make_room, own) if decodes else None
        self.statistics = self.engine.statistics  # of all engines that it ever has
        self._inbox: queue.SimpleQueue[tuple[Plan | None, Future[Sample | Failed]] | None] = queue.SimpleQueue()
        self._under_way: dict[Future[Sample | Failed], Plan] = {}
        self._keeps: WeakKeyDictionary[Future[Sample | Failed], Keep] = WeakKeyDictionary()
        self._lock, self._ended = threading.Lock(), None  # what ended it, if anything has
        self._shortage, self._made_room = "", threading.Event()  # of memory, for decoding
        self._broken: ClusterError | None = None  # what ended the decoding, or all
        self._expected = 0
        self.start()

    def submit(self, plan: Plan, keep: Keep | None = None) -> Future[Sample | Failed]:
        """The plan's picture, some time. keep: told its last state, before that is decoded."""
        future: Future[Sample | Failed] = Future()
        with self._lock:
            if self._ended is not None:
                raise self._ended
            if keep is not None:
                self._keeps[future] = keep
            self._inbox.put((plan, future))
        return future

    def moves_made(self, future: Future[Sample | Failed]) -> int | None:
        """Of a plan that is under way; None of any other."""
        with suppress(AttributeError):  # it has ended, and its engine is gone
            return self.engine.moves_made(future)
        return None

    def withdraw(self, future: Future[Sample | Failed]) -> None:
        """Nobody waits for it any more: its plan goes no further, and nothing comes of it."""
        self._inbox.put((None, future))

    def close(self) -> None:
        """Ends it; what waits is given an error."""
        with self._lock:
            self._broken = self._broken or ClusterError(f"{self.stage} was closed")
        self._inbox.put(None)
        self.join()

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
        if self.latents is not None:
            torch.set_num_threads(self.latents.engine_threads)
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
        if self.engine.idle:
            self._hand_on(self._inbox.get())
            gather_until = time.monotonic() + GATHER_SECONDS
        while True:
            gathers = self._expected and self.engine.has_room and time.monotonic() < gather_until
            try:
                self._hand_on(self._inbox.get(gathers, LOOK_SECONDS))
            except queue.Empty:
                if not gathers:
                    return

    def _hand_on(self, message: tuple[Plan | None, Future[Sample | Failed]] | None) -> None:
        if message is None:
            return self._hear_of_decoding()
        plan, future = message
        if plan is None:
            if self._under_way.pop(future, None) is not None:
                self.engine.withdraw(future)
        elif future.set_running_or_notify_cancel():  # from here on nobody can take it back
            self._under_way[future] = plan
            self.engine.add(plan, future)

    def _make_pass(self) -> None:
        """One pass of the engine; what is finished is handed to the decoding. Nothing is lost where memory ends."""
        shortage = ""
        try:
            for result in self.engine.advance():
                if isinstance(result, Failed):
                    self._give(result.tag, result)
                elif self.latents is None:
                    self._give(result.tag, self._sample(result, result.image))
                else:
                    self._decode(self.latents, result)
        except torch.OutOfMemoryError as error:
            shortage = str(error)
        if shortage:  # out here, where the error's frames no longer hold what they allocated
            self._shrink(shortage)

    def _give(self, future: Future[Sample | Failed], result: Sample | Failed) -> None:
        del self._under_way[future]
        future.set_result(result)

    def _sample(self, finished: Finished, image: Tensor) -> Sample:
        plan = self._under_way[finished.tag]
        ran = (self.dtype, self.engine.capacity_of(plan), mode_in_use(self.engine.predictor_of(plan)))
        return Sample(image, finished.evaluations, finished.seconds, *ran, finished.memory)

    def _decode(self, latents: LatentsThread, finished: Finished) -> None:
        """The row is out of the engine's hands: what comes of it is given in the other thread."""
        future, sample = finished.tag, self._sample(finished, finished.image)
        del self._under_way[future]

        def give(decoded: Future[Tensor]) -> None:
            error = decoded.exception()
            if error is None:
                future.set_result(replace(sample, image=decoded.result()))
            elif isinstance(error, ClusterError):
                with self._lock:  # before anybody hears of it
                    self._broken = self._ended = error
                self._inbox.put(None)
                future.set_exception(error)
            else:
                future.set_result(Failed(future, error, finished.evaluations, finished.seconds))

        latents.decode(finished.image, self._keeps.get(future)).add_done_callback(give)

    def _make_room(self, shortage: str) -> bool:
        """Called by the other thread, and waits for this one to make smaller passes; whether there were any."""
        with self._lock:
            if self._ended is not None or self.capacity == 1:
                return False
        self._shortage = shortage
        self._made_room.clear()
        self._inbox.put(None)
        return self._made_room.wait(ROOM_SECONDS)

    def _hear_of_decoding(self) -> None:
        if self._broken is not None:
            raise self._broken
        self._shrink(self._shortage)
        self._made_room.set()

    def _shrink(self, shortage: str) -> None:
        """Half the capacity. Rows under way begin anew, so that each picture is the one of a single capacity; as every
        pass has one shape, memory mostly ends in the first."""
        if self.capacity == 1:
            raise ClusterError(f"{self.stage} does not fit its device, not even with one evaluation a pass: {shortage}")
        self.capacity //= 2
        self.engine.abandon()
        smaller = Buckets(self.predictor, self.capacity, self.engine.shape)
        smaller.statistics = self.statistics
        for future, plan in self._under_way.items():
            smaller.add(plan, future)
        self.engine = smaller
        forget_graphs(self.predictor)  # each holds what a pass of the former size takes
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _end(self, error: Exception) -> None:
        """Nothing comes any more, of what waits and of what is yet to come."""
        ours = isinstance(error, (ClusterError, StorageError, ModelError))
        said = f"{self.stage} ended, and no row is to blame: {type(error).__name__}: {error}"
        ended = error.with_traceback(None) if ours else ClusterError(said)  # its frames hold the weights
        self.guard.end(idle=True)
        del self.engine, self.predictor  # before anybody hears of it, who may want their room
        if self.latents is not None:
            self.latents.close(ended)
        with self._lock:
            self._ended = ended
        waiting = list(self._under_way)
        while not self._inbox.empty():
            message = self._inbox.get()
            waiting += [] if message is None else [message[1]]
        for future in waiting:
            if future.running() or future.set_running_or_notify_cancel():
                future.set_exception(ended)
        self._under_way.clear()
