"""Holds a GPU's free memory but for some, so that a job beside it runs out: a process of its own, which is ended.

python benchmarks/gpu_check_hold.py LEAVE_GB READY_FILE
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch


def main() -> int:
    leave, ready = float(sys.argv[1]) * 1e9, Path(sys.argv[2])
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(0, int(free - leave)), dtype=torch.uint8, device="cuda")
    ready.write_text(f"{held.nbytes / 1e9:.1f} GB are held, {torch.cuda.mem_get_info()[0] / 1e9:.1f} GB are left\n")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
