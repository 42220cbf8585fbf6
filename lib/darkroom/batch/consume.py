"""Reading a Ray data set as its rows come, with an end to silence and errors in plain words."""

from __future__ import annotations

import gc
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.data import Dataset

from darkroom.batch.errors import Stalled
from darkroom.batch.progress import News, Watchdog
from darkroom.ray_cluster import ClusterError, free
from darkroom.storage import StorageError

LISTEN_SECONDS, SAID_SECONDS = 1.0, 60.0
_PLACE = re.compile(r'File ".*?(darkroom/[\w/]+\.py)", line (\d+), in (\w+)')


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


class Listener:
    """Hears what a counter has to say, without waiting for it.

    heard: told each time; say: told once where nobody shows for a while that he lives; check: called as often, to raise
    what ended something that goes on beside the dataset.
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
        self._asked: Any = None
        self._lines = self._work = self._signs = 0
        self._next = 0.0

    def listen(self, watchdog: Watchdog) -> None:
        """Asks once a second, and tells the watchdog and `heard` what has come."""
        if time.monotonic() < self._next:
            return
        self.check()
        if watchdog.silence > SAID_SECONDS and not self._silent:
            at = "one is loading" if watchdog.loading else "none is loading"
            waits = f"waiting up to {watchdog.limit:.0f} s; {free()}"
            self.say(f"no worker gave a sign of life for {watchdog.silence:.0f} s, and {at}: {waits}")
        self._silent = watchdog.silence > SAID_SECONDS
        if self._asked is None:
            self._asked = self.counter.news.remote(self._lines)
        if ray.wait([self._asked], timeout=0)[0]:
            self._next = time.monotonic() + LISTEN_SECONDS
            asked, self._asked = self._asked, None
            self._take(asked, watchdog)

    def _take(self, asked: Any, watchdog: Watchdog) -> None:
        try:
            news: News = ray.get(asked)
        except ray.exceptions.RayError:
            return  # it is gone: commits alone are seen from here on
        watchdog.loading = news.loading
        if news.work > self._work:
            watchdog.beat()
        elif news.signs > self._signs:
            watchdog.wait()
        self._lines += len(news.lines)
        self._work, self._signs = news.work, news.signs
        self.heard(news)


def watched(dataset: Dataset, watchdog: Watchdog, what: str, listener: Listener) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they come. Stalled when no worker shows for too long that it lives; else what a worker
    raised, if it is ours, and ClusterError when it crashed or Ray itself gave up. what: a row, in the message."""
    consumer = _Consumer(dataset)
    del dataset  # else what is raised here would refer to it, see `take_failure`
    consumer.start()
    try:
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
    finally:
        consumer.abandoned = True
    if failure := consumer.take_failure():
        listener.check()  # what goes on beside the dataset may have failed first, and be why
        raise failure
    if not consumer.complete:
        raise ClusterError("Ray Data ended before its time; its error is above")


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
    lines = [
        f"no {what} and no worker gave a sign of life for {watchdog.silence:.0f} s, the limit is {watchdog.limit:.0f} s"
    ]
    try:
        lines += ray.get(counter.lines.remote(), timeout=10)
    except (ray.exceptions.RayError, TimeoutError) as error:
        lines.append(f"the stages' counter does not answer ({type(error).__name__})")
    return "\n  ".join([*lines, free()])
