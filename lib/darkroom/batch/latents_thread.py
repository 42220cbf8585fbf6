"""A VAE at work in a thread of its own, so that an engine need not wait for it: pictures to latents and back.

On a GPU it has a stream of its own too, and decodes several states at once, always as many: what a picture's bits
depend on must not be who came with it. Where the device's memory ends it decodes fewer, and then asks for room.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from darkroom.batch.row_state import is_device_lost
from darkroom.batch.stuck import Guard
from darkroom.ray_cluster import ClusterError
from darkroom.sampling.buckets import count_of, is_larger, too_large
from darkroom.sampling.guidance import group
from darkroom.sampling.out_of_memory import naming_out_of_memory
from darkroom.sampling.stage import Shape

if TYPE_CHECKING:
    from darkroom.models.latents import Latents

ONE_OF = 8  # of a processor's threads is for pictures: about their part of all that is computed

Keep = Callable[[Tensor], None]


class Job(NamedTuple):
    """given: a state to decode or, with noise, a picture to encode; keep: told the state before it is decoded."""

    answer: Future[Tensor]
    given: Tensor
    noise: Tensor | None = None
    keep: Keep | None = None

    @property
    def shape(self) -> Shape:
        """Of its latents."""
        return tuple((self.given if self.noise is None else self.noise).shape)


class LatentsThread(threading.Thread):
    """Takes states by `decode` and pictures by `encode`.

    shape: of the states of which so many are decoded at once as the VAE says; of larger ones fewer.
    make_room: called for want of memory, with what the device said, where it works on one picture already; whether
    there may be more of it now. guard: of what it does at once. What is no picture's fault ends the thread, as a
    ClusterError for all who wait; one that is larger than others and does not fit alone fails alone.
    """

    def __init__(
        self, name: str, latents: Latents, shape: Shape | None, make_room: Callable[[str], bool], guard: Guard
    ) -> None:
        super().__init__(name=f"latents of {name}", daemon=True)
        self.stage, self.latents, self.shape, self.make_room, self.guard = name, latents, shape, make_room, guard
        self.at_once = latents.at_once
        self.engine_threads, self.own_threads = share_processors(latents.device)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = False
        self._lock = threading.Lock()
        self._closed: Exception | None = None  # why it takes nothing any more, if it does not
        self._ended: ClusterError | None = None
        self.start()

    def encode(self, picture: Tensor, noise: Tensor) -> Tensor:
        """See `Latents.encode`; waits for it."""
        return self._submit(Job(Future(), picture, noise)).result()

    def decode(self, state: Tensor, keep: Keep | None = None) -> Future[Tensor]:
        """A state float32 [C, h, w] on the host -> its picture float32 [3, H, W] on the host, some time; of a video
        [C, F, h, w] -> [3, F, H, W]. keep: told the state first, in the thread. An error that is a ClusterError is
        nobody's; any other that state's."""
        return self._submit(Job(Future(), state, keep=keep))

    def _submit(self, job: Job) -> Future[Tensor]:
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._jobs.put(job)
        return job.answer

    def run(self) -> None:
        torch.set_num_threads(self.own_threads)
        stream = torch.cuda.Stream() if self.latents.device.type == "cuda" else None
        with torch.cuda.stream(stream) if stream else nullcontext():
            while not self._closing:
                for jobs in self._gather():
                    try:
                        self._keep(jobs)
                        self.guard.begin()
                        self._work(jobs)
                    except Exception as error:  # a thread that dies would leave all others waiting
                        self._end([job for job in jobs if not job.answer.done()], self._blames_no_row(error))
                    self.guard.end(idle=self._jobs.empty())
        del self.latents

    def close(self, why: Exception | None = None) -> None:
        """It does what was asked for, and lets the VAE go. why: raised for whoever comes later."""
        with self._lock:
            self._closed = why or ClusterError(f"{self.stage} was closed")
            self._jobs.put(None)

    def _gather(self) -> list[list[Job]]:
        """All that waits, in groups to be done at once; waits itself for the first."""
        found = [self._jobs.get()]
        with suppress(queue.Empty):
            while True:
                found.append(self._jobs.get_nowait())
        self._closing = None in found
        jobs = [job for job in found if job is not None]
        decoding = [job for job in jobs if job.noise is None]
        states = group(job.shape for job in decoding)
        groups = [
            [decoding[place] for place in places[at : at + many]]
            for places in states.values()
            for many in [self._many(decoding[places[0]])]
            for at in range(0, len(places), many)
        ]
        return [[job] for job in jobs if job.noise is not None] + groups

    def _keep(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.keep is not None:
                job.keep(job.given)

    def _work(self, jobs: list[Job]) -> None:
        """Every job gets its answer or its error."""
        if self._ended is not None:
            return self._give_all(jobs, self._ended)
        many = self._many(jobs[0])
        if len(jobs) > many:  # than when these were put together
            for at in range(0, len(jobs), many):
                self._work(jobs[at : at + many])
            return
        shortage = ""
        try:
            with naming_out_of_memory():
                answers = self._answers(jobs)
        except torch.OutOfMemoryError as error:
            shortage = str(error)
        except Exception as error:
            return self._fail(jobs, error.with_traceback(None))
        else:
            for job, answer in zip(jobs, answers, strict=True):
                job.answer.set_result(answer)
            return
        self._shrink(jobs, shortage)  # out here, where the error's frames no longer hold what they allocated

    def _answers(self, jobs: list[Job]) -> Sequence[Tensor]:
        first, *_ = jobs
        if first.noise is not None:
            return [self.latents.encode(first.given, first.noise)]
        return _decoded(self.latents, torch.stack([job.given for job in jobs]), self._many(first))

    def _many(self, job: Job) -> int:
        """How many of its shape are done at once now."""
        return 1 if job.noise is not None else count_of(job.shape, self.at_once, self.shape)

    def _shrink(self, jobs: list[Job], shortage: str) -> None:
        """Tries again with fewer at once, with more room, or piece by piece: what was sampled is not lost, but for what
        is too large itself."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._many(jobs[0]) == 1 and is_larger(jobs[0].shape, self.shape):
            if not self.latents.tile():
                return self._give_all(jobs, too_large(jobs[0].shape, shortage))
        elif self.at_once > 1:
            self.at_once //= 2
        elif not self.make_room(shortage) and not self.latents.tile():
            said = f"{self.stage} does not fit its device, not even one picture of its latents: {shortage}"
            return self._end(jobs, ClusterError(said))
        self._work(jobs)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        """Of several, each is tried alone; where not even zeros can be decoded no state is to blame."""
        if is_device_lost(error) or not self._decodes_nothing(jobs[0]):
            return self._end(jobs, self._blames_no_row(error))
        if len(jobs) == 1:
            return self._give_all(jobs, error)
        for job in jobs:
            self._work([job])

    def _decodes_nothing(self, job: Job) -> bool:
        try:
            self.latents.decode(torch.zeros(1, *job.shape))
        except Exception:
            return False
        return True

    def _blames_no_row(self, error: Exception) -> ClusterError:
        return ClusterError(f"{self.stage} ended, and no row is to blame: {type(error).__name__}: {error}")

    def _end(self, jobs: list[Job], error: ClusterError) -> None:
        self._ended = error
        self._give_all(jobs, error)

    def _give_all(self, jobs: list[Job], error: Exception) -> None:
        for job in jobs:
            job.answer.set_exception(error)


def share_processors(device: torch.device) -> tuple[int, int]:
    """Of this process' threads, how many an engine and its VAE shall have each, at least one: on a processor two pools
    of all of them would wait for each other. A thread's `torch.set_num_threads` is for what it computes itself."""
    threads = torch.get_num_threads()
    own = max(1, threads // ONE_OF)
    return (max(1, threads - own), own) if device.type == "cpu" else (threads, threads)


def decoded(latents: Latents, states: Sequence[Tensor], shape: Shape, at_once: int) -> list[Tensor]:
    """Pictures of states on the host, as a `LatentsThread` makes them, in this thread; at_once: states of the usual
    shape in a pass."""
    pictures: list[Tensor] = [torch.empty(0)] * len(states)
    for own, places in group(tuple(state.shape) for state in states).items():
        many = count_of(own, at_once, shape)
        for at in range(0, len(places), many):
            some = places[at : at + many]
            found = _decoded(latents, torch.stack([states[place] for place in some]), many)
            for place, picture in zip(some, found, strict=True):
                pictures[place] = picture
    return pictures


def _decoded(latents: Latents, states: Tensor, many: int) -> Sequence[Tensor]:
    """Pictures of [N, C, h, w] on the host, by a pass of so many; in full precision where half does not hold one, if
    its state holds numbers."""
    padded = torch.cat([states, states.new_zeros(many - len(states), *states.shape[1:])])
    pictures = latents.decode(padded)[: len(states)].cpu()
    if latents.is_whole or bool(pictures.isfinite().all()):
        return pictures
    return [
        latents.decode_whole(state[None])[0].cpu() if overflows else picture
        for picture, state in zip(pictures, states, strict=True)
        for overflows in [not picture.isfinite().all() and bool(state.isfinite().all())]
    ]
