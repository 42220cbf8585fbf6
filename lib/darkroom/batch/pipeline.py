"""Ray Data, all of it: how units of work flow through tasks and actors, how prompts are embedded before that, and how
what comes out is read, with an end to silence and errors in plain words.

What the actors do is in `stages`, what the tasks do in `load_inputs` and `write_results`.
"""

from __future__ import annotations

import gc
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from darkroom.batch.load_inputs import LoadOptions, load_block
from darkroom.batch.placement import Pool, encoder_pool
from darkroom.batch.progress import PROMPTS, JobCounter, News, Stalled, Watchdog
from darkroom.batch.row_state import Unit
from darkroom.batch.stages import (
    CHOOSE,
    FINISH,
    EncoderActor,
    JudgeActor,
    StageActor,
    StageJob,
    Unencoded,
)
from darkroom.batch.write_results import Receipt, WriteOptions, write_block
from darkroom.ray_cluster import ClusterError, beside, free
from darkroom.ray_cluster.resources import TASK_CPUS, read_room
from darkroom.storage import StorageError

if TYPE_CHECKING:
    from darkroom.batch.scoring import JudgeOptions

UNITS_IN_FLIGHT = 6  # per engine actor: enough that it never runs dry between units, few enough that memory stays flat
PROMPTS_PER_TASK = 256
# A block has one row, which is a unit, or a chunk of prompts. Ray Data refuses whole blocks (`batch_size=None`) to
# those that ask for a GPU, and what it makes of blocks of several rows is its own affair.
_ONE_ROW = {"batch_size": 1, "batch_format": "pyarrow"}
LISTEN_SECONDS, SAID_SECONDS, ANSWER_SECONDS = 1.0, 60.0, 10.0
_PLACE = re.compile(r'File ".*?(darkroom/[\w/]+\.py)", line (\d+), in (\w+)')


@dataclass(frozen=True)
class Job:
    """A job as its pipeline needs it: stages to run, units to do, and what each part is told.

    chooses: some rows have candidates, of which the best goes on after stage I.
    """

    model: str
    stages: tuple[StageJob, ...]
    units: list[Unit]
    load: LoadOptions
    write: WriteOptions
    judge: JudgeOptions
    chooses: bool = False

    @property
    def names(self) -> list[str]:
        """All that units go through, in order."""
        stages = [stage.name for stage in self.stages]
        if self.chooses:
            stages.insert(1, CHOOSE)
        return ["load", *stages, *[FINISH] * self.judge.finishes, "write"]


def run(job: Job, pools: dict[str, Pool], watchdog: Watchdog, listener: Listener) -> Iterator[Receipt]:
    """Receipts of finished units as they come, for the run's owner to commit; Stalled when nobody shows for too long
    that it is at work.

    Raises StorageError for an outage that a worker met, ClusterError when one crashed or Ray itself gave up.
    """
    for row in watched(build(job, pools, listener.counter), watchdog, "unit was committed", listener):
        yield Receipt(**row)


def build(job: Job, pools: dict[str, Pool], counter: Any) -> Dataset:
    """The dataset whose rows are units, from their numbers to their receipts."""
    # Blocks of our own, not `ray.data.range`: its read tasks want a whole processor each, which the actors may hold.
    dataset = ray.data.from_blocks([pa.Table.from_pylist([asdict(unit)]) for unit in job.units])
    dataset = dataset.map_batches(
        load_block, fn_args=(job.load, counter), num_cpus=TASK_CPUS, zero_copy_batch=True, **_ONE_ROW
    )
    stages = {stage.name: stage for stage in job.stages}
    for name in job.names[1:-1]:
        if name in stages:
            options = (job.model, stages[name], pools[name], job.write.run, counter)
            dataset = _with_actors(dataset, name, StageActor, options, pools[name], UNITS_IN_FLIGHT)
        else:
            options = (name, job.judge, pools[name].threads, counter)
            dataset = _with_actors(dataset, name, JudgeActor, options, pools[name], 1)
    return dataset.map_batches(write_block, fn_args=(job.write, counter), num_cpus=TASK_CPUS, **_ONE_ROW)


def _with_actors(
    dataset: Dataset, name: str, actor: type, options: tuple[Any, ...], pool: Pool, at_once: int
) -> Dataset:
    """name: what Ray's own views call the actors, which else would all have the one of their class."""
    more = {"max_concurrent_calls_per_actor": at_once} if at_once > 1 else {}
    return dataset.map_batches(
        type(name, (actor,), {"__module__": actor.__module__}),
        fn_constructor_args=options,
        compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=2 * at_once, **more),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        resources=pool.resources or None,
        **_ONE_ROW,
    )


def start_counter(names: list[str]) -> Any:
    """The actor that stages report to."""
    return ray.remote(**beside())(JobCounter).remote(names)


def busy_seconds(counter: Any) -> dict[str, float]:
    """Seconds of work by stage; nothing if the counter was lost, which is no reason to fail a job."""
    try:
        return ray.get(counter.busy.remote(), timeout=10)
    except (ray.exceptions.RayError, TimeoutError):
        return {}


def embed(
    missing: list[Unencoded], model: str, revision: str, pool: Pool | None, watchdog: Watchdog, listener: Listener
) -> None:
    """Encodes the prompts, one encoder's after the other's. model: what a worker opens, of which revision. The actors
    are gone when this returns. Raises as `run`."""
    blocks = [
        pa.table({"encoder": [place], "prompts": [one.prompts[at : at + PROMPTS_PER_TASK]]})
        for place, one in enumerate(missing)
        for at in range(0, len(one.prompts), PROMPTS_PER_TASK)
    ]
    if not blocks:
        return
    pool = pool or encoder_pool(read_room(), len(blocks))
    # Blocks of our own, as in `build`.
    options = (model, revision, [replace(one, prompts=[]) for one in missing], pool.threads, listener.counter)
    dataset = _with_actors(ray.data.from_blocks(blocks), PROMPTS, EncoderActor, options, pool, 1)
    for _ in watched(dataset, watchdog, "prompt was embedded", listener):
        pass


class _Consumer(threading.Thread):
    """Reads a dataset into a queue. A daemon, because waiting for Ray cannot be given up from outside: an exit does not
    wait for it."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(name="consumer", daemon=True)
        self.dataset: Dataset | None = dataset
        self.rows = queue.Queue[dict[str, Any]]()
        self.error: ray.exceptions.RayError | None = None
        self.complete = self.abandoned = False

    def run(self) -> None:
        try:
            for block in self.dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in block.to_pylist():
                    self.rows.put(row)
            self.complete = True
        except ray.exceptions.RayError as error:
            self.error = error
        self.dataset = None
        if self.abandoned:
            self.take_failure()  # nobody else will, see there

    def take_failure(self) -> Exception | None:
        """What ended it, if anything did, and without Ray's own error: the traceback of that refers to actors, and they
        live, and hold their processors, while anything does. Whoever catches this may keep it and wait for those."""
        if self.error is None:
            return None
        failure, self.error = _plain(self.error), None
        gc.collect()
        return failure


class _Asker(threading.Thread):
    """Asks a counter for its news once a second. A thread of its own, as a daemon: where a raylet died, a call into Ray
    may never come back, and whoever made it hears neither a signal nor that time is up."""

    def __init__(self, counter: Any) -> None:
        super().__init__(name="asker", daemon=True)
        self.counter, self.news, self.ended = counter, queue.SimpleQueue[News](), threading.Event()

    def run(self) -> None:
        lines = 0
        while not self.ended.wait(LISTEN_SECONDS):
            try:
                news: News = ray.get(self.counter.news.remote(lines))
            except Exception:  # of Ray, or of what is left of it where the job has ended
                return  # it is gone: commits alone are seen from here on
            lines += len(news.lines)
            self.news.put(news)


class Listener:
    """Hears what a counter has to say, without waiting for it, between `with` and its end.

    heard: told each time; say: told once where nobody shows for a while that he lives; check: called once a second, to
    raise what ended something that goes on beside the dataset.
    """

    def __init__(
        self,
        counter: Any,
        heard: Callable[[News], None] = lambda news: None,
        check: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.counter, self.heard, self.check, self.say = counter, heard, check, say
        self._silent = False
        self._asker = _Asker(counter)
        self._work = self._signs = 0
        self._next = 0.0

    def __enter__(self) -> Listener:
        self._asker = _Asker(self.counter)
        self._asker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._asker.ended.set()
        self._asker.join(LISTEN_SECONDS)

    def listen(self, watchdog: Watchdog) -> None:
        """Once a second: tells the watchdog and `heard` what has come."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LISTEN_SECONDS
        self.check()
        if watchdog.silence > SAID_SECONDS and not self._silent:
            at = "one is loading" if watchdog.loading else "none is loading"
            waits = f"waiting up to {watchdog.limit:.0f} s; {_answer(free)}"
            self.say(f"no worker gave a sign of life for {watchdog.silence:.0f} s, and {at}: {waits}")
        self._silent = watchdog.silence > SAID_SECONDS
        while not self._asker.news.empty():
            self._take(self._asker.news.get(), watchdog)

    def _take(self, news: News, watchdog: Watchdog) -> None:
        watchdog.loading = news.loading
        if news.work > self._work:
            watchdog.beat()
        elif news.signs > self._signs:
            watchdog.wait()
        self._work, self._signs = news.work, news.signs
        self.heard(news)


def watched(dataset: Dataset, watchdog: Watchdog, what: str, listener: Listener) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they come. Stalled when no worker shows for too long that it lives; else what a worker
    raised, if it is ours, and ClusterError when it crashed or Ray itself gave up. what: a row, in the message."""
    consumer = _Consumer(dataset)
    del dataset  # else what is raised here would refer to it, see `take_failure`
    consumer.start()
    try:
        with listener:
            yield from _rows(consumer, watchdog, what, listener)
    finally:
        consumer.abandoned = True
    if failure := consumer.take_failure():
        listener.check()  # what goes on beside the dataset may have failed first, and be why
        raise failure
    if not consumer.complete:
        raise ClusterError("Ray Data ended before its time; its error is above")


def _rows(consumer: _Consumer, watchdog: Watchdog, what: str, listener: Listener) -> Iterator[dict[str, Any]]:
    """No call into Ray in here, see `_Asker`."""
    while consumer.is_alive() or not consumer.rows.empty():
        listener.listen(watchdog)
        try:
            row = consumer.rows.get(timeout=0.5)
        except queue.Empty:
            if watchdog.expired:
                raise Stalled(_silence(watchdog, what, listener.counter)) from None
            continue
        watchdog.beat()
        yield row


def _plain(error: ray.exceptions.RayError) -> Exception:
    """What a worker's error was before Ray wrapped it, if it is ours; else, as no input is to blame for a crash, a
    ClusterError that says where it was."""
    from darkroom.models.errors import ModelError

    cause: BaseException = error
    where = ""
    while isinstance(cause, ray.exceptions.RayTaskError):
        where, cause = _last_place(cause), cause.cause
    if isinstance(cause, (StorageError, ModelError, ClusterError)):
        cause.args = (str(cause).partition("\nFailed to ")[0],)  # Ray Data adds advice on its retries
        return cause
    if isinstance(cause, ray.exceptions.RayError):
        return ClusterError(f"Ray gave up: {type(cause).__name__}: {cause}")
    said = str(cause).strip().partition("\n")[0]
    return ClusterError(f"a worker crashed{where}: {type(cause).__name__}: {said}")


def _last_place(error: ray.exceptions.RayTaskError) -> str:
    """The innermost line of ours in a worker's traceback, which travels as text."""
    found = _PLACE.findall(str(error))
    return f" at {'{}:{}, in {}'.format(*found[-1])}" if found else ""


def _silence(watchdog: Watchdog, what: str, counter: Any) -> str:
    """What is known of a job that is given up."""
    limit = f"the limit is {watchdog.limit:.0f} s"
    lines = [f"no {what} and no worker gave a sign of life for {watchdog.silence:.0f} s, {limit}"]
    if watchdog.silence <= watchdog.limit:
        lines = [f"no {what} and no evaluation was made for {watchdog.standstill:.0f} s, whatever began anew; {limit}"]
    return "\n  ".join([*lines, _answer(lambda: "\n  ".join(ray.get(counter.lines.remote()))), _answer(free)])


def _answer(ask: Callable[[], str]) -> str:
    """What a call into Ray says, waited for as long as is bearable, see `_Asker`."""
    answers = queue.SimpleQueue[str]()

    def put() -> None:
        with suppress(Exception):  # as in `_Asker`
            answers.put(ask())

    threading.Thread(target=put, daemon=True).start()
    try:
        return answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        return f"Ray does not answer for {ANSWER_SECONDS:.0f} s"
