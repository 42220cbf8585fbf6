"""Every hostile input of tests/hostile, each in a process of its own: has it its right answer, in what time and memory.

    python benchmarks/hostile.py                    all of them
    python benchmarks/hostile.py picture mask       those whose names begin so

A process has a gigabyte beside what its imports take, and may calculate for five seconds. It is a fork of one that has
these imports: what they cost, which any command costs, is a line of its own.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
WORST = 5


def main() -> None:
    began = time.process_time()
    from hostile import CASES
    from hostile.case import Answer, answer, warm_up, wrong_with

    warm_up()
    imports, taken = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found: dict[str, Answer] = {}
    wrong = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, case) in enumerate(CASES.items()):
            if not sys.argv[1:] or name.startswith(tuple(sys.argv[1:])):
                found[name] = answer(case, Path(folder, str(number)))
                if why := wrong_with(case, found[name]):
                    wrong[name] = why
                    print(f"{name}: {why}", flush=True)
    codes = Counter(each.code for each in found.values())
    counted = ", ".join(f"{count} of exit code {code}" for code, count in sorted(codes.items()))
    print(f"{len(found)} inputs, {len(found) - len(wrong)} with their right answer: {counted}")
    print(f"imports: {imports:.1f} s of a processor, {taken:,.0f} MB; beside them:")
    for what, worst in (("time", lambda name: found[name].seconds), ("memory", lambda name: found[name].bytes)):
        for name in sorted(found, key=worst, reverse=True)[:WORST]:
            most = found[name].bytes / 2**20
            print(f"  worst {what:6}  {found[name].seconds:5.2f} s  {most:6,.0f} MB with imports  {name}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
