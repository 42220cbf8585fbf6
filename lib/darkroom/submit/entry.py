"""What a submitted job is on the cluster: `python -m darkroom.submit.entry JOB ARGUMENTS...`.

Waits for jobs of a higher priority, runs the job, and keeps a copy of its log and status in the run, so that they
outlive the cluster; ID is what Ray calls the job:

    RUN/submissions/ID/status.json    id, job, arguments, status (waiting, running, done, failed, stopped), exit code
    RUN/submissions/ID/log.txt        what the job said; its last part where that is long

Exits with the job's own code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

from darkroom.storage import StorageError, Store, open_store
from darkroom.submit.request import run_of

COPY_SECONDS = 10.0
LOG_BYTES = 4 * 2**20
TURN_SECONDS = 5.0
UNANSWERED = 12  # questions in a row, after which a job that waits begins all the same


class Record:
    """A job's copy of itself in its run. Storage that fails is said once, and costs the job nothing; what could not be
    written is, once it is back."""

    def __init__(self, store: Store | None, name: str, job: str, arguments: list[str]) -> None:
        self._store, self._folder = store, f"submissions/{name}"
        self._status: dict[str, Any] = {"id": name, "job": job, "arguments": arguments}
        self._log = bytearray()
        self._lock, self._copying = threading.Lock(), threading.Lock()
        self._copied = -1
        self._length = 0
        self._failed = False

    def add(self, line: bytes) -> None:
        with self._lock:
            self._log += line
            self._length += len(line)
            if len(self._log) > 2 * LOG_BYTES:
                del self._log[:-LOG_BYTES]

    def status(self, status: str, **more: Any) -> None:
        self._status |= {"status": status, "at": datetime.now(UTC).isoformat(), **more}
        self._write("status.json", json.dumps(self._status, indent=2).encode())

    def copy_log(self) -> None:
        """Writes the log's end if it has grown since it was written last."""
        with self._copying:  # one copy after the other: one that takes long must not replace a later one
            with self._lock:
                length, log = self._length, bytes(self._log[-LOG_BYTES:])
            if length != self._copied and self._write("log.txt", log):
                self._copied = length

    def _write(self, name: str, data: bytes) -> bool:
        """Whether it is written."""
        if self._store is None:
            return False
        try:
            self._store.write(f"{self._folder}/{name}", data)
        except StorageError as error:
            if not self._failed:
                print(f"darkroom: the job goes on, but its {name} cannot be copied: {error}", file=sys.stderr)
            self._failed = True
            return False
        return True


def main(arguments: list[str]) -> int:
    job, *given = arguments
    told = _metadata()
    name, run = told.get("job_submission_id", job), run_of(job, given)
    record = Record(_store(run), name, job, given)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())  # Ray tells the job's own processes as well
    record.status("waiting")
    if not _wait_for_turn(name, int(told.get("priority", 0)), stopped):
        record.status("stopped")
        return 128 + signal.SIGTERM
    began = time.monotonic()
    record.status("running", began_at=datetime.now(UTC).isoformat())
    code = _run([sys.executable, "-m", f"darkroom.jobs.{job}", *given], record)
    record.copy_log()
    status = "stopped" if stopped.is_set() else "failed" if code else "done"
    record.status(status, exit_code=code, seconds=round(time.monotonic() - began, 1))
    return code


def _store(run: str) -> Store | None:
    """The run's. None where there is none, or its uri is wrong: the job itself says so, and ends with its code."""
    try:
        return open_store(run) if run else None
    except ValueError:
        return None


def _metadata() -> dict[str, str]:
    """What Ray says of this job: its id, and what was submitted with it."""
    return json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})


def _run(command: list[str], record: Record) -> int:
    """Runs the job, passing on what it says; its exit code, 128 + N if the signal N ended it."""
    over = threading.Event()

    def copy() -> None:
        while not over.wait(COPY_SECONDS):
            record.copy_log()

    threading.Thread(target=copy, daemon=True).start()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            record.add(line)
    over.set()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _wait_for_turn(name: str, priority: int, stopped: threading.Event) -> bool:
    """Returns when no job of a higher priority is under way; False if this one was stopped before that. Does not wait
    where the cluster does not say what else it has to do: at once, or UNANSWERED times after it did."""
    from ray.job_submission import JobSubmissionClient

    told, unanswered = "", 0
    while not stopped.is_set():
        try:
            first = [job.submission_id for job in JobSubmissionClient().list_jobs() if goes_before(job, priority)]
            if not first:
                return True
            if first[0] != told:
                print(f"{name} waits for {first[0]}, which has a higher priority", flush=True)
            told, unanswered = first[0], 0
        except (RuntimeError, OSError) as error:  # an OSError is also what requests raises, whatever went wrong
            unanswered += 1
            if not told or unanswered == UNANSWERED:
                print(f"{name} begins: the cluster does not list its other jobs ({error})", flush=True)
                return True
        stopped.wait(TURN_SECONDS)
    return False


def goes_before(job: Any, priority: int) -> bool:
    """Whether a job is under way that has a higher priority; those of other programs have 0."""
    given = (job.metadata or {}).get("priority", "0")
    return not job.status.is_terminal() and given.lstrip("-").isdigit() and int(given) > priority


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
