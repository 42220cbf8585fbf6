"""The whole product on the first GPU that is here, Ray included, in one call that ends with one table.

    python benchmarks/gpu_check.py --out gpu-check --mnist FOLDER_OF_THE_FOUR_IDX_FILES     # within forty minutes
    python benchmarks/gpu_check.py --out gpu-check --quick                                  # within fifteen
    python benchmarks/gpu_check.py --out gpu-check --only if oom benchmarks --seconds 1200
    python benchmarks/gpu_check.py --out gpu-check --only recipes --mnist FOLDER --seconds 3000
    python benchmarks/gpu_check.py --out gpu-check --tiny

--tiny runs all of it with tiny networks, on a processor where there is no GPU; with RAY_OVERRIDE_RESOURCES='{"CPU": 2,
"GPU": 1}' in the environment Ray then hands out a GPU that is not there, and whatever asks for one is walked.

Each step is a process that is ended at its limit with all that it started; all of them share --seconds, and those for
which nothing is left are left out: the benchmarks in most cases, which `--only benchmarks` runs alone. After each step
OUT/table.md, OUT/figures.json and --json are written, and OUT/logs/STEP.log holds what it said, so that a check that is
cut off keeps what it has. Wants what the product wants, and no network. Exit code 1 if a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

from gpu_check_processes import run_limited, started  # noqa: E402
from gpu_check_steps import ALL, GROUPS, chosen  # noqa: E402

FULL_SECONDS, QUICK_SECONDS = 2400.0, 900.0
LEAST = 15.0  # seconds without which a step is not begun
MACHINE = """
import os, platform, subprocess, torch

def driver():
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"

gpu = torch.cuda.is_available()
cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if gpu else []
memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if gpu else 0
try:
    import ray
    version = ray.__version__
except ImportError as error:
    version = f"missing ({error})"
card = f"{len(cards)} x {cards[0]}, {memory:.0f} GB" if cards else "no GPU"
cores = len(os.sched_getaffinity(0))
torch_and_ray = f"CUDA {torch.version.cuda}; torch {torch.__version__}; Ray {version}"
print(f"{card}; driver {driver()}, {torch_and_ray}; Python {platform.python_version()}; {cores} cores")
"""


@dataclass
class Line:
    """A step in the table."""

    step: str
    what: str
    limit: float
    status: str = "ok"
    seconds: float = 0.0
    figures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "; ".join(told(figure) for figure in self.figures if not figure["detail"]) or "-"


class Runner:
    """Runs steps one after the other and writes what is known after each."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.out, self.began = given, given.out.absolute(), time.monotonic()
        self.lines, self.env = list[Line](), environment(self.out)
        self.machine = machine(self.env)
        if "no GPU" not in self.machine:
            # Else a job shares its stages out among all cards, and the engine that it is held against has one.
            self.env["CUDA_VISIBLE_DEVICES"] = self.env.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

    def run(self) -> int:
        given = self.given
        print(self.machine, flush=True)
        if "no GPU" in self.machine and not given.tiny:
            print("no GPU is seen here: --tiny runs all of it on a processor, with tiny networks", file=sys.stderr)
            return 2
        names = chosen(given.only, given.quick, given.recipes)
        with ExitStack() as stack:
            if any(ALL[name].cascade for name in names):
                stack.enter_context(self.cascade())
            for name in names:
                self.lines.append(self.step(name))
                self.write()
        print(f"\n{self.table()}", flush=True)
        return 1 if any(line.status.startswith("failed") for line in self.lines) else 0

    def step(self, name: str) -> Line:
        step, given = ALL[name], self.given
        left = given.seconds - (time.monotonic() - self.began)
        limit = min(given.limits.get(name, step.seconds(given.tiny, given.quick)), left)
        line = Line(name, step.what, limit)
        if limit < min(LEAST, given.limits.get(name, LEAST)):
            line.status = f"left out: the {given.seconds:.0f} s of the check were over"
            print(f"{name}: {line.status}", flush=True)
            return line
        print(f"{name}: {step.what}, at most {limit:.0f} s ...", flush=True)
        began, log = time.monotonic(), self.out / "logs" / f"{name}.log"
        shutil.rmtree(self.out / name, ignore_errors=True)
        code = run_limited([*self.command("gpu_check_steps.py", name), "--out", str(self.out)], log, limit, self.env)
        line.seconds = time.monotonic() - began
        line.figures = read_figures(self.out / name / "figures.json")
        if code != 0:
            ended = f"ended at its limit of {limit:.0f} s; " if code is None else ""
            line.status = f"failed: {ended}{last_line(log)}"
        print(f"{name}: {line.status}, {line.seconds:.0f} s. {line.text}", flush=True)
        return line

    def command(self, script: str, *arguments: str) -> list[str]:
        given = self.given
        modes = ["--tiny"] * given.tiny
        if script == "gpu_check_steps.py":
            modes += ["--quick"] * given.quick + (["--mnist", given.mnist] if given.mnist else [])
        return [sys.executable, str(ROOT / "benchmarks" / script), *arguments, *modes]

    def cascade(self) -> Any:
        """The process that makes the weights while the first step runs."""
        folder, failed = self.out / "cascade", self.out / "cascade.failed"
        failed.unlink(missing_ok=True)
        if (folder / "done").exists():
            return ExitStack()
        shutil.rmtree(folder, ignore_errors=True)
        make = " ".join(map(quoted, self.command("gpu_check_model.py", str(folder))))
        log = self.out / "logs" / "cascade.log"
        shell = f"{make} || tail -n 1 {quoted(str(log))} > {quoted(str(failed))}"
        return started(["sh", "-c", shell], log, self.env)

    def table(self) -> str:
        """In Markdown, and below it what is too long for it."""
        rows = [
            f"| {line.step} | {cell(line.what)} | {cell(line.text)} | {line.seconds:.0f} | {cell(line.status)} | "
            f"{line.limit:.0f} |"
            for line in self.lines
        ]
        details = [
            f"\n{line.step}, {told(figure)}" for line in self.lines for figure in line.figures if figure["detail"]
        ]
        return "\n".join(["| step | what | found | seconds | | limit |", "|---|---|---|---|---|---|", *rows, *details])

    def write(self) -> None:
        found = {"machine": self.machine, "tiny": self.given.tiny, "steps": [asdict(line) for line in self.lines]}
        for path in filter(None, (self.out / "figures.json", self.given.json)):
            path.write_text(json.dumps(found, indent=1))
        (self.out / "table.md").write_text(f"{self.machine}\n\n{self.table()}\n")


def environment(out: Path) -> dict[str, str]:
    """Of all steps: the library where it is not installed, and a cache of the check's own, in which no earlier check
    has left a capacity."""
    told = {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT / "lib")]))
    return os.environ | told | {"DARKROOM_CACHE": str(out / "cache"), "PYTHONPATH": path}


def machine(env: dict[str, str]) -> str:
    """Asked in a process of its own: this one must hold nothing of the GPU."""
    done = subprocess.run([sys.executable, "-c", MACHINE], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"torch does not answer here: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()


def read_figures(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # none yet, or one that was being written when the step was ended
        return []


def told(figure: dict[str, Any]) -> str:
    from gpu_check_jobs import Figure

    return Figure(**figure).text()


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder for logs, runs, models and the table")
    parser.add_argument("--json", type=Path, help="one more place for all figures")
    parser.add_argument("--only", nargs="+", metavar="STEP", choices=[*ALL, *GROUPS], help=", ".join([*ALL, *GROUPS]))
    parser.add_argument("--quick", action="store_true", help="the main jobs, and a training")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, few rows: that it works, not how fast")
    parser.add_argument("--recipes", action="store_true", help="also the recipes at full size")
    parser.add_argument("--mnist", help="folder of MNIST's four IDX files; else the package's sample of digits")
    parser.add_argument("--seconds", type=float, help="of all steps together; default 2400, --quick 900, --tiny no end")
    parser.add_argument(
        "--limit", nargs="+", default=[], metavar="STEP=SECONDS", dest="limits", help="another limit for a step"
    )
    given = parser.parse_args()
    if given.seconds is None:
        given.seconds = float("inf") if given.tiny or given.recipes else QUICK_SECONDS if given.quick else FULL_SECONDS
    try:
        given.limits = {name: float(seconds) for name, seconds in (one.split("=") for one in given.limits)}
    except ValueError:
        parser.error("--limit wants STEP=SECONDS")
    return given


def main() -> int:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is running is ended too
    return Runner(given).run()


if __name__ == "__main__":
    sys.exit(main())
