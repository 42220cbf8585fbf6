"""A function over many items, in processes of their own, its results in order.

Not multiprocessing's: a process that it spawns runs the user's script once more, notebooks and scripts without a
`__main__` guard included, and one that it forks inherits the threads of whatever runs here. These are forked from one
that has nothing but this project's imports, so that these are paid for once, in time and in memory.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from darkroom.storage import StorageError

MOST = 16  # processes: the one that reads and writes feeds no more
FEW = 4  # items that are done here before processes would have begun

Item = TypeVar("Item")
Result = TypeVar("Result")


def available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int | None = None
) -> Iterator[Result]:
    """function(item) of each, in order; few items are ahead of the results. What the function raises is raised here.

    With one processor, or for a few items, all happens in this process. Else function, items and results are pickled.
    StorageError when a process is ended from outside.
    """
    count = min(available(), MOST) if processes is None else processes
    rest = iter(items)
    first = list(islice(rest, FEW + 1))
    if count <= 1 or len(first) <= FEW:
        yield from map(function, chain(first, rest))
        return
    with _Workers(function, count) as workers:
        yield from workers.map(chain(first, rest))


class _Workers:
    """Processes, and a thread for each that talks to it."""

    def __init__(self, function: Callable[[Any], Any], count: int) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        theirs = [pair[1].fileno() for pair in pairs]
        self._forker = subprocess.Popen(
            [sys.executable, "-c", f"from darkroom.manifest.processes import fork; fork({theirs})"],
            pass_fds=theirs,
            stdin=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for this process: they end when their socket does
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        )
        assert self._forker.stdin is not None
        with suppress(BrokenPipeError), self._forker.stdin as stdin:
            pickle.dump(function, stdin)
        for _, their in pairs:
            their.close()
        self._connections = [Connection(ours.detach()) for ours, _ in pairs]
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for connection in self._connections:
            self._idle.put(connection)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="manifest")

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:
            connection.close()
        self._forker.wait()

    def map(self, items: Iterator[Any]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        for item in items:
            waiting.append(self._threads.submit(self._ask, item))
            if len(waiting) > 2 * len(self._connections):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _ask(self, item: Any) -> Any:
        connection = self._idle.get()
        try:
            connection.send(item)
            good, answer = connection.recv()
        except (EOFError, OSError):
            reason = "a process that reads the manifest was ended, perhaps for want of memory"
            raise StorageError(f"{reason}; start again") from None
        finally:
            self._idle.put(connection)
        if not good:
            raise answer
        return answer


def fork(descriptors: list[int]) -> None:
    """In the process between: forks one for each of these sockets, and ends with the last."""
    function = pickle.load(sys.stdin.buffer)  # which imports all that it needs
    for mine in descriptors:
        if os.fork() == 0:
            for other in descriptors:
                if other != mine:
                    os.close(other)
            # No clean-up of what the process between began.
            os._exit(_serve(function, Connection(mine)))
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _serve(function: Callable[[Any], Any], connection: Connection) -> int:
    with suppress(EOFError, OSError):
        while True:
            connection.send(_answer(function, connection.recv()))
    return 0


def _answer(function: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return True, function(item)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return False, RuntimeError(traceback.format_exc())
        return False, error
