"""What is lost when anything is killed at any time: a mixed run on a cluster of this machine, struck again and again.

    python benchmarks/chaos.py                            50 strikes at a run of 2,000 rows, a head and two workers
    python benchmarks/chaos.py --strikes 5 --rows 300     a part of it

Strikes: SIGKILL of the job, of an actor that holds the model, of a worker's task process, of a raylet, of a whole node;
SIGTERM and Ctrl-C of the job. A job that ended is started again by the same command, on half or twice the workers by
chance; a node that ended is replaced. At the end each run is held against one that nothing struck: rows lost, rows
twice, pictures that are not the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from mix import make_rows, write

from darkroom.models.if_xs import STAGE_SIZES
from darkroom.runs import Ledger
from darkroom.runs.audit import audit
from darkroom.storage import image_key, open_store
from darkroom.submit import nodes

ROOT = Path(__file__).parents[1]
STRIDE = 200  # five steps a row
UNIT_ROWS, CAPACITY = 16, 32
LONGEST_WAIT = 30.0  # seconds between two strikes
GIVE_UP = 600.0  # seconds for a job that nothing strikes any more


@dataclass
class Struck:
    """What came of one kind of strike. codes: exit codes of jobs that it ended; seconds: until they had ended; redone:
    pictures that were there and no row that counts had."""

    times: int = 0
    codes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    redone: list[int] = field(default_factory=list)


class Chaos:
    """A manifest, a cluster, and the job that is under way."""

    def __init__(self, folder: Path, manifest: Path, cluster: nodes.LocalCluster, chance: random.Random) -> None:
        self.folder, self.manifest, self.cluster, self.chance = folder, manifest, cluster, chance
        self.struck: dict[str, Struck] = defaultdict(Struck)
        self.starts = 0

    def run(self, out: Path, strikes: int) -> int:
        """Brings a run to its end under strikes, so many at most; how many there were."""
        count, job = 0, self._start(out)
        while True:
            wait = self.chance.uniform(0, LONGEST_WAIT) if count < strikes else GIVE_UP
            try:
                code = job.wait(wait)
            except subprocess.TimeoutExpired:
                if count == strikes:
                    raise RuntimeError(f"the job did not end in {GIVE_UP:g} s; see {self.folder}/job.log") from None
                count += self._strike(out, job)
            else:
                if code == 0:
                    return count
                job = self._start(out)
            if job.poll() not in (None, 0):
                job = self._start(out)

    def _start(self, out: Path) -> subprocess.Popen[bytes]:
        self.starts += 1
        workers = self.chance.choice(ENGINES)
        command = [sys.executable, str(ROOT / "jobs/generate.py"), str(self.manifest), "--out", str(out)]
        command += ["--unit-rows", str(UNIT_ROWS), "--capacity", str(CAPACITY), "--workers", str(workers)]
        log = (self.folder / "job.log").open("ab")
        return subprocess.Popen(command, env=os.environ | self.cluster.environment, stdout=log, stderr=log)

    def _strike(self, out: Path, job: subprocess.Popen[bytes]) -> bool:
        """One strike at random; whether there was something to strike."""
        name = self.chance.choice(list(STRIKES))
        began = time.monotonic()
        if not STRIKES[name](self, job):
            return False
        found = self.struck[name]
        found.times += 1
        if name.startswith("job"):
            found.codes.append(job.wait(120))
            found.seconds.append(time.monotonic() - began)
            found.redone.append(unclaimed(out))
        self.replace_nodes()
        print(f"  {name}: {rows_of(out):,} rows count" + (f", exit code {found.codes[-1]}" if found.codes else ""))
        return True

    def replace_nodes(self) -> None:
        alive = [node for node in self.cluster.nodes[1:] if node.alive]
        for _ in range(WORKERS - len(alive)):
            self.cluster = nodes.add_node(self.cluster, CPUS)

    def processes(self, wanted: Callable[[str], bool]) -> list[psutil.Process]:
        """Of the workers' nodes, by their command lines."""
        found = []
        for node in self.cluster.nodes[1:]:
            if not node.alive:
                continue
            for process in psutil.Process(node.pid).children(recursive=True):
                try:
                    if wanted(" ".join(process.cmdline())):
                        found.append(process)
                except psutil.Error:
                    continue
        return found


WORKERS, CPUS = 2, 2
ENGINES = 1, 2  # actors of the stage


def job_by(number: int) -> Callable[[Chaos, subprocess.Popen[bytes]], bool]:
    def strike(chaos: Chaos, job: subprocess.Popen[bytes]) -> bool:
        job.send_signal(number)
        return True

    return strike


def process_of(wanted: Callable[[str], bool]) -> Callable[[Chaos, subprocess.Popen[bytes]], bool]:
    def strike(chaos: Chaos, job: subprocess.Popen[bytes]) -> bool:
        found = chaos.processes(wanted)
        if found:
            chaos.chance.choice(found).kill()
            time.sleep(1)  # a node that loses its raylet ends a moment later
        return bool(found)

    return strike


def node(chaos: Chaos, job: subprocess.Popen[bytes]) -> bool:
    alive = [one for one in chaos.cluster.nodes[1:] if one.alive]
    if alive:
        nodes.kill_node(chaos.chance.choice(alive))
    return bool(alive)


STRIKES: dict[str, Callable[[Chaos, subprocess.Popen[bytes]], bool]] = {
    "job, SIGKILL": job_by(signal.SIGKILL),
    "job, SIGTERM": job_by(signal.SIGTERM),
    "job, Ctrl-C": job_by(signal.SIGINT),
    "actor with the model": process_of(lambda line: line.startswith("ray::") and "stage" in line),
    "task process": process_of(lambda line: line.startswith("ray::") and "stage" not in line and "Agent" not in line),
    "raylet": process_of(lambda line: "/raylet" in line.partition(" ")[0]),
    "node": node,
}


def rows_of(out: Path) -> int:
    store = open_store(str(out))
    return Ledger(store).read().rows if store.exists("run.json") else 0


def unclaimed(out: Path) -> int:
    """Pictures that no row which counts has: they are made again."""
    store = open_store(str(out))
    rows = [
        row for key in store.list("metadata/") for row in pq.read_table(out / key, columns=["id", "key"]).to_pylist()
    ]
    return len(set(store.list("images/")) - {image_key(row["id"], row["key"]) for row in rows})


def digests(out: Path) -> list[tuple[str, str]]:
    """(id, SHA-256 of the picture) of every row that any Parquet reader finds."""
    tables = (pq.read_table(path, columns=["id", "sha256"]) for path in sorted((out / "metadata").glob("*.parquet")))
    return [(row["id"], row["sha256"]) for table in tables for row in table.to_pylist()]


def show(chaos: Chaos, runs: list[Path], reference: dict[str, str]) -> bool:
    print(f"\n{'strike':<24}{'times':>6}  {'exit codes of the job':<26}{'s to its end':>14}{'made again, most':>18}")
    for name, found in sorted(chaos.struck.items()):
        codes = ", ".join(f"{code}: {found.codes.count(code)}" for code in sorted(set(found.codes)))
        seconds = f"{max(found.seconds):.1f}" if found.seconds else ""
        print(f"{name:<24}{found.times:>6}  {codes:<26}{seconds:>14}{max(found.redone, default=0) or '':>18}")
    whole = True
    for out in runs:
        found = digests(out)
        twice, lost = len(found) - len(dict(found)), len(reference.keys() - dict(found).keys())
        others = sum(reference.get(name) != digest for name, digest in found)
        passed = audit(str(out)).passed
        whole &= passed and not twice + lost + others
        said = "passes" if passed else "fails"
        print(f"{out.name}: {len(found):,} rows, {lost} lost, {twice} twice, {others} other pictures; its audit {said}")
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strikes", type=int, default=50)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the kinds")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    os.environ |= {"PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
    rows: list[Any] = [row | {"stride": STRIDE} | start_of(row) for row in make_rows(given.rows)]
    manifest = write(folder, rows, STAGE_SIZES[0])
    began = time.monotonic()
    cluster = nodes.up(str(folder / "cluster"), WORKERS, CPUS)
    chaos = Chaos(folder, manifest, cluster, random.Random(given.seed))
    runs: list[Path] = []
    try:
        chaos.run(folder / "unbroken", 0)
        reference = dict(digests(folder / "unbroken"))
        print(f"unbroken: {len(reference):,} rows in {time.monotonic() - began:.0f} s", flush=True)
        left = given.strikes
        while left:
            runs.append(folder / f"run {len(runs) + 1}")
            left -= chaos.run(runs[-1], left)
        whole = show(chaos, runs, reference)
    finally:
        nodes.down(str(folder / "cluster"))
    print(f"{given.strikes} strikes, {chaos.starts - 1} starts of the job, {time.monotonic() - began:.0f} s, {folder}")
    return 0 if whole else 1


def start_of(row: dict[str, Any]) -> dict[str, Any]:
    return {"start": min(row["start"], 1000 // STRIDE - 1)} if "start" in row else {}


if __name__ == "__main__":
    sys.exit(main())
