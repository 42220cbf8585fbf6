"""Processes and what they started, ended by name of nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from darkroom.ray_cluster.processes import kill_trees, start_time

# Starts another, in a session of its own as Ray's are, says its number and waits.
TREE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_tree_is_ended_and_its_neighbour_is_not() -> None:
    neighbour = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    root = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, text=True)
    child = int(root.stdout.readline())
    assert start_time(child) >= start_time(root.pid) > 0
    kill_trees([root.pid])
    assert start_time(child) is None and start_time(root.pid) is None
    assert neighbour.poll() is None
    neighbour.communicate(b"\n")
    assert neighbour.returncode == 0


def test_who_is_not_there_cannot_be_ended() -> None:
    last = int(Path("/proc/sys/kernel/pid_max").read_text())
    assert start_time(last + 1) is None
    kill_trees([last + 1])


def test_a_process_is_named_by_its_ticks_since_the_boot() -> None:
    """As /proc has it, and as the files of clusters that were started before have it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert start_time(os.getpid()) == int(fields[19])


def test_a_zombie_is_not_alive_and_not_waited_for() -> None:
    zombie = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    assert start_time(zombie.pid) is None
    kill_trees([zombie.pid])
    assert time.monotonic() - began < 5
