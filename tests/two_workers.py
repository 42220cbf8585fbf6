"""Two workers of one training, in processes that share a group of gloo's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# `rank` and `folder` are there for the script.
BEGIN = """
import sys, torch
rank, folder = int(sys.argv[1]), sys.argv[2]
sys.path[:0] = sys.argv[3:]
torch.distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
"""


def outputs_of_two(script: str, folder: Path, *modules: Path) -> list[str]:
    """What each of two workers that run the script prints; modules: folders that it imports from."""
    command = [sys.executable, "-c", BEGIN + script]
    given = [str(folder), str(Path(__file__).parent), *map(str, modules)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([*command, str(rank), *given], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in (0, 1)
    ]
    return [process.communicate(timeout=240)[0] for process in both]
