"""What is heard of a data set while it is read: signs of life, errors in plain words."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray

from darkroom.batch.pipeline import Listener, _with_actors, start_counter, watched
from darkroom.batch.placement import Pool
from darkroom.batch.progress import News, Stalled, Watchdog
from darkroom.batch.stages import _Loaded
from darkroom.batch.write_results import write_block
from darkroom.ray_cluster import ClusterError, connect


class Slow:
    """A data set that gives its one row after so many seconds. What is at work on it tells the counter every now and
    then, if it tells."""

    def __init__(self, seconds: float, tell: Callable[[], Any] | None = None) -> None:
        self.seconds, self.tell = seconds, tell

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        over = time.monotonic() + self.seconds
        while time.monotonic() < over:
            if self.tell is not None:
                self.tell()
            time.sleep(0.2)
        yield pa.table({"row": [7]})


@pytest.fixture
def counter(shared_ray: None) -> Any:
    connect(None, verbose=False)  # as every job does, which says how Ray Data hands on errors
    found = start_counter(["stage 1"])
    ray.get(found.prompts.remote())  # it is up
    return found


def test_an_engine_slower_than_the_limit_is_not_stalled_as_long_as_it_evaluates(counter: Any) -> None:
    """The first unit of a large model takes far longer than the guard's limit."""
    dog, heard = Watchdog(floor=3.0, first=3.0), list[News]()
    slow = Slow(9.0, lambda: counter.evaluated.remote("stage 1", 32, 0.2))
    rows = list(watched(slow, dog, "unit was committed", Listener(counter, heard.append)))
    assert rows == [{"row": 7}] and heard[-1].evaluations >= 32 * 10


def test_one_that_does_nothing_is_stalled_and_says_where_it_stands(counter: Any) -> None:
    counter.enter.remote("stage 1")
    said = r"no unit was committed and no worker gave a sign of life .*\n  stage 1: took 1 unit, gave back 0, 0 eval"
    with pytest.raises(Stalled, match=said):
        list(watched(Slow(60.0), Watchdog(floor=2.0, first=2.0), "unit was committed", Listener(counter)))


def test_a_ray_that_does_not_answer_keeps_nobody_waiting(counter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call into it may never come back: the job still sees that its time is up, and hears signals."""
    monkeypatch.setattr("darkroom.batch.pipeline.ANSWER_SECONDS", 1.0)
    process = psutil.Process(ray.get(counter.__ray_call__.remote(lambda self: os.getpid())))
    process.suspend()
    try:
        with pytest.raises(Stalled, match=r"for 2 s, the limit is 2 s\n  Ray does not answer for 1 s"):
            list(watched(Slow(60.0), Watchdog(floor=2.0, first=2.0), "unit was committed", Listener(counter)))
    finally:
        process.resume()


def test_what_goes_on_beside_it_can_end_it(counter: Any) -> None:
    failed = threading.Event()

    def check() -> None:
        if failed.is_set():
            raise ClusterError("the encoding failed")

    threading.Timer(1.0, failed.set).start()
    with pytest.raises(ClusterError, match="the encoding failed"):
        list(watched(Slow(60.0), Watchdog(60, 60), "unit was committed", Listener(counter, check=check)))


def test_a_crash_of_a_worker_is_the_clusters_failure_in_one_line(counter: Any) -> None:
    """Whatever is raised, as of CUDA: exit code 3, and no traceback."""
    broken = ray.data.from_blocks([pa.table({"strange": [1]})]).map_batches(
        write_block, fn_args=(None, counter), batch_size=1, batch_format="pyarrow", num_cpus=0.2
    )
    with pytest.raises(ClusterError) as caught:
        list(watched(broken, Watchdog(60, 60), "unit was committed", Listener(counter)))
    said = str(caught.value)
    assert "a worker crashed at darkroom/batch/row_state.py:" in said and "KeyError" in said
    assert "\n" not in said and "Traceback" not in said


class Crashing:
    """An actor whose device is lost: at its start, or at its first unit."""

    def __init__(self, when: str, counter: Any) -> None:
        self.loaded = _Loaded("stage 1", lambda begin: self.fail() if when == "start" else self, counter)

    def fail(self) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")

    def __call__(self, block: pa.Table) -> pa.Table:
        self.loaded.get().fail()
        return block


@pytest.mark.parametrize("when", ["start", "unit"])
def test_an_actor_goes_by_its_stage_and_its_crash_is_the_clusters_failure(counter: Any, when: str) -> None:
    units = ray.data.from_blocks([pa.table({"unit": [1]})])
    broken = _with_actors(units, "stage 1", Crashing, (when, counter), Pool(1, 0.2, 0.0), 1)
    assert "stage 1" in str(broken) and "Crashing" not in str(broken)
    with pytest.raises(ClusterError, match="CUDA error: device-side assert triggered"):
        list(watched(broken, Watchdog(60, 60), "unit was committed", Listener(counter)))


def test_silence_is_said_long_before_it_ends_the_job(counter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.batch.pipeline.SAID_SECONDS", 2.0)
    said: list[str] = []
    list(watched(Slow(7.0), Watchdog(60, 60), "unit was committed", Listener(counter, say=said.append)))
    assert len(said) == 1 and said[0].startswith("no worker gave a sign of life for ") and "of 2 CPU" in said[0]
