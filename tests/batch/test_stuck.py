from __future__ import annotations

import subprocess
import sys
import time

import pytest

from darkroom.batch.stuck import Guard

PASSES = """
import threading, time
from darkroom.batch.stuck import Guard

def passes():
    for seconds in {seconds}:
        guard.begin()
        time.sleep(seconds)
        guard.end(idle=False)
    guard.end(idle=True)

guard = Guard({floor}, first=30)
thread = threading.Thread(target=passes)
thread.start()
time.sleep(0.8)
print(guard.hangs(0.1), flush=True)
thread.join()
time.sleep({rest})
print("done")
"""


def run(floor: float | None, seconds: list[float], rest: float = 0) -> subprocess.CompletedProcess[str]:
    code = PASSES.format(floor=floor, seconds=seconds, rest=rest)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_process_whose_pass_hangs_ends_and_says_where_it_was() -> None:
    ended = run(1.3, [0.01, 3600])
    assert ended.returncode == 1 and "done" not in ended.stdout
    assert ended.stdout == "is at one pass for 1 s, in <string>:8, passes; after 1 s it is replaced\n"
    assert "Timeout" in ended.stderr and "line 8 in passes" in ended.stderr


@pytest.mark.parametrize(
    ("floor", "seconds"), [(None, [0.01, 1.0]), (0.5, [0.2, 1.0])], ids=["no guard", "twenty times the longest"]
)
def test_a_pass_that_may_take_so_long_ends_nothing(floor: float | None, seconds: list[float]) -> None:
    assert run(floor, seconds).returncode == 0


def test_nothing_ends_a_process_that_rests() -> None:
    assert run(0.3, [0.01, 0.1], rest=1).stdout == "\ndone\n"


def test_a_pass_that_compiles_has_a_first_ones_time_and_says_nothing_of_others() -> None:
    guard = Guard(100, first=500)
    guard.compiles()
    assert guard.limit == 500, "before any pass it is nobody's"
    for compiles, limit in ((False, 500), (False, 100), (True, 500), (False, 100)):
        guard.begin()
        if compiles:
            guard.compiles()
        assert guard.limit == limit
        time.sleep(0.001)
        guard.end(idle=True)
    assert guard.longest < 5
