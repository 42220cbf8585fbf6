"""The check of the whole product on a GPU, tiny on a processor: real steps, a limit that is met, a step that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("gpu_check"):
            del sys.modules[name]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[int, str, dict[str, dict[str, Any]]]]:
    """Runs gpu_check.py: its exit code, what it printed, and its lines by step."""

    def run(*given: str, **env: str) -> tuple[int, str, dict[str, dict[str, Any]]]:
        command = [sys.executable, "benchmarks/gpu_check.py", "--tiny", "--out", str(tmp_path / "out"), *given]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
        steps = json.loads((tmp_path / "out" / "figures.json").read_text())["steps"]
        return done.returncode, done.stdout + done.stderr, {line["step"]: line for line in steps}

    return run


def figures(line: dict[str, Any]) -> dict[str, Any]:
    return {figure["name"]: figure["value"] for figure in line["figures"]}


def running_with(text: str) -> list[str]:
    """The command lines of processes whose environment holds that."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and text.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.slow  # what it says of the job is what e2e/test_generate.py says
def test_the_job_at_a_cascade_makes_the_pictures_of_the_bare_engine(check: Callable[..., Any], tmp_path: Path) -> None:
    code, printed, lines = check("--only", "if", "--json", str(tmp_path / "found"))
    assert code == 0, printed
    found = figures(lines["if"])
    assert lines["if"]["status"] == "ok"
    assert found["pictures that are the bare engine's to the byte"] == "10 of 10"
    assert found["seconds to the first committed row, job"] > 0
    assert any(found.get(f"job {when} / bare engine", 0) > 0 for when in ("once running", "with its start"))
    assert "| if |" in (tmp_path / "out" / "table.md").read_text()
    assert json.loads((tmp_path / "found").read_text())["steps"] == [lines["if"]]


def test_a_step_is_ended_at_its_limit_with_all_it_started_and_the_next_goes_on(
    check: Callable[..., Any], tmp_path: Path
) -> None:
    code, printed, lines = check("--only", "demo", "train-engine", "--limit", "demo=8")
    assert code == 1
    assert lines["demo"]["status"].startswith("failed: ended at its limit of 8 s")
    assert lines["train-engine"]["status"] == "ok", printed
    assert any(name.endswith("evaluations_per_second") for name in figures(lines["train-engine"]))
    assert "| demo |" in printed and "| train-engine |" in printed
    assert running_with(f"DARKROOM_CACHE={tmp_path / 'out' / 'cache'}") == []


def test_what_left_its_group_is_ended_too(benchmarks: None, tmp_path: Path) -> None:
    from gpu_check_processes import run_limited

    told = f"GPU_CHECK_TEST={tmp_path}"
    env = {"PATH": os.environ["PATH"], "GPU_CHECK_TEST": str(tmp_path)}
    script = f"setsid sleep 600 & echo begun; touch {tmp_path / 'begun'}; trap '' TERM; sleep 600"
    assert run_limited(["sh", "-c", script], tmp_path / "log", 2, env) is None
    assert (tmp_path / "log").read_text() == "begun\n"
    time.sleep(0.2)  # a process that was ended has its environment for a moment longer
    assert running_with(told) == []


def test_what_a_step_holds_beside_itself_ends_with_it(benchmarks: None, tmp_path: Path) -> None:
    from gpu_check_processes import run_limited

    inner = f"started(['sleep', '600'], Path({str(tmp_path / 'inner')!r}), os.environ)"
    # Without mercy for its context: as where it is killed before it can end what it holds.
    script = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from gpu_check_processes import started
signal.signal(signal.SIGTERM, signal.SIG_DFL)
with {inner} as held:
    print(held.pid, flush=True)
    time.sleep(600)
"""
    env = os.environ | {"GPU_CHECK_TEST": str(tmp_path)}
    assert run_limited([sys.executable, "-c", script], tmp_path / "log", 4, env) is None
    assert int((tmp_path / "log").read_text()) > 0
    time.sleep(0.2)
    assert running_with(f"GPU_CHECK_TEST={tmp_path}") == []


def test_a_step_that_fails_says_why_and_so_does_the_exit_code(check: Callable[..., Any], tmp_path: Path) -> None:
    code, printed, lines = check("--only", "train", "--mnist", str(tmp_path / "nowhere"))
    assert code == 1
    assert lines["train"]["status"].startswith("failed: darkroom ingest ended with exit code")
    assert "nowhere" in lines["train"]["status"] and "nowhere" in (tmp_path / "out" / "table.md").read_text()


def test_steps_for_which_no_time_is_left_are_left_out(check: Callable[..., Any]) -> None:
    code, printed, lines = check("--only", "auto", "graphs", "--seconds", "1")
    assert code == 0, printed
    assert [line["status"] for line in lines.values()] == ["left out: the 1 s of the check were over"] * 2


def test_which_steps_are_run(benchmarks: None) -> None:
    from gpu_check_steps import BENCHMARKS, RECIPES, STEPS, chosen

    assert chosen(None, quick=False, recipes=False) == [*STEPS, *BENCHMARKS]
    assert chosen(None, quick=True, recipes=False) == ["demo", "if", "latents", "sd15", "train"]
    assert chosen(["recipes", "oom"], quick=False, recipes=False) == ["oom", *RECIPES]
    assert chosen(["demo"], quick=False, recipes=True) == ["demo", *RECIPES]


def test_a_figure_is_held_against_its_goal(benchmarks: None, tmp_path: Path) -> None:
    from gpu_check_jobs import Found

    found = Found(tmp_path / "figures.json")
    found.add("seconds", 12.5, at_most=15)
    found.add("ratio", 0.9, at_least=0.95)
    assert [figure.text() for figure in found.figures] == [
        "seconds: 12.5 (goal <= 15)",
        "ratio: 0.9 (goal >= 0.95: missed)",
    ]
    assert [figure["met"] for figure in json.loads((tmp_path / "figures.json").read_text())] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    "told", [{}, {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2, "GPU": 1}'}], ids=["processor", "told-gpu"]
)
def test_every_step_runs(check: Callable[..., Any], told: dict[str, str]) -> None:
    code, printed, lines = check("--recipes", **told)
    assert code == 0, printed
    assert {line["status"] for line in lines.values()} == {"ok"}
