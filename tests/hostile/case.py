"""A hostile input, its right answer, and what it ends in: in a process of its own, which has five seconds and a
gigabyte beside what its imports take."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import typer

from darkroom import cli
from darkroom.batch.input_files import input_roots
from darkroom.batch.load_inputs import LoadOptions, load_row
from darkroom.batch.row_state import RowState

ROW, WRONG, ENVIRONMENT = 1, 2, 3
SECONDS, BYTES = 5, 2**30
HUNG = 60  # seconds, for what waits and does not calculate

Content = str | bytes | Callable[[Path], None]  # a function puts there what is no plain file


@dataclass(frozen=True)
class Case:
    """files: by their paths; the job gets the first one's, or `given`. says: what its message has to hold. alone: it
    may hang or flood, where a guard is gone.

    job: a module of darkroom.jobs; or "row", which loads the pictures of a manifest's one row as a worker does.
    """

    says: str
    files: Mapping[str, Content]
    job: str = "generate"
    code: int = WRONG
    given: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False

    def put(self, folder: Path) -> None:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)


class Answer(NamedTuple):
    """code: -N where signal N ended it. seconds: of its processor; bytes: the most it had, with its imports."""

    code: int
    text: str
    seconds: float
    bytes: int


def answer(case: Case, folder: Path) -> Answer:
    """What a case comes to, in a fork of this process."""
    _prepare(case, folder)
    output = folder.with_name(f"{folder.name}.out")
    child = os.fork()
    if not child:
        _be_alone(case, folder, output)
    _, status, used = os.wait4(child, 0)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return Answer(code, output.read_text(errors="replace"), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def answer_here(case: Case, folder: Path) -> Answer:
    """The same in this process, within no bounds."""
    _prepare(case, folder)
    output, before = io.StringIO(), os.getcwd()
    began = time.process_time()
    os.chdir(folder)
    try:
        with redirect_stdout(output), redirect_stderr(output):
            code = _code(case)
    finally:
        os.chdir(before)
    return Answer(code, output.getvalue(), time.process_time() - began, 0)


def _prepare(case: Case, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case.put(folder)


def wrong_with(case: Case, found: Answer) -> str:
    """Why an answer is not the right one; "" where it is."""
    if found.code < 0:
        return f"ended by {signal.Signals(-found.code).name} after {found.seconds:.1f} s of its processor"
    if found.code != case.code or case.says not in found.text:
        return f"exit code {found.code}, wanted {case.code} and {case.says!r}; it says {found.text[:600]!r}"
    if "Traceback" in found.text or "a fault of this program" in found.text or " object at 0x" in found.text:
        return f"it says {found.text[:600]!r}"
    longest = max(map(len, found.text.splitlines()), default=0)
    return f"a line of {longest} characters" if longest > 1000 else ""


def _be_alone(case: Case, folder: Path, output: Path) -> None:
    """Does the job, and ends this process by its exit code."""
    code = 99
    try:
        os.chdir(folder)
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        (now,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
        limit = int(now) * 1024 + BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(HUNG)
        code = _code(case)
    except BaseException as error:  # it says so, and ends here: above are the tests' own frames
        print(f"Traceback: {error!r}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _code(case: Case) -> int:
    try:
        _do(case)
    except typer.Exit as stopped:
        return stopped.exit_code
    return cli.DONE


def _do(case: Case) -> None:
    first = case.given or next(iter(case.files))
    if case.job == "row":
        return _load(first)
    main = importlib.import_module(f"darkroom.jobs.{case.job}").main
    own = {"generate": {"out": "out", "dry_run": True}, "convert": {"out": "jobs.jsonl"}}.get(case.job, {})
    main(first, **{**own, **case.options})


def _load(manifest: str) -> None:
    with cli.exit_codes():
        here = os.getcwd()
        options = LoadOptions(f"{here}/out", "", here, (24, 48), 3, roots=input_roots((), here, f"{here}/out"))
        line = {"id": "a", "key": "0" * 32, "row": json.loads(Path(manifest).read_text())}
        state = load_row(RowState.of_line(0, line), options)
        if state.failure is None:
            print("loaded", *state.flags)
            return
        assert state.failure.kind == "input", state.failure
        print(state.failure.text)
        raise typer.Exit(ROW)


def warm_up() -> None:
    """All imports that a fork would do, and a model that was opened: that is a start's cost, and no input's."""
    from darkroom.batch import generate
    from darkroom.models.catalog import open_model

    assert generate.dry_run and open_model("if-xs")
    for job in ("audit", "clean", "compact", "convert", "embed", "ingest", "report", "retrain"):
        importlib.import_module(f"darkroom.jobs.{job}")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(target: str) -> Content:
    return lambda path: path.symlink_to(target)


def folder(path: Path) -> None:
    path.mkdir()


def later(make: Callable[[], bytes]) -> Content:
    """For what is large: it is there when it is wanted."""
    return lambda path: path.write_bytes(make()) and None


def sparse(size: int) -> Content:
    def put(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return put
