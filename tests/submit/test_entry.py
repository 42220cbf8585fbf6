"""What a job is on the cluster, without one: its own exit code, its record in the run, its turn."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from darkroom.storage import open_store
from darkroom.submit import entry
from darkroom.submit.entry import Record, goes_before

PROGRAM = "import os, sys; print('out'); print('err', file=sys.stderr); sys.stdout.flush(); {}"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(open_store(str(tmp_path)), "try-1", "audit", ["s3://bucket/run"])


@pytest.mark.parametrize(("end", "code"), [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_is_the_jobs_and_the_log_is_passed_on_and_kept(
    end: str, code: int, record: Record, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert entry._run([sys.executable, "-u", "-c", PROGRAM.format(end)], record) == code
    record.copy_log()
    kept = (tmp_path / "submissions/try-1/log.txt").read_bytes()
    assert sorted(kept.split()) == [b"err", b"out"] and capfdbinary.readouterr().out == kept


def test_a_status_keeps_what_was_said_before(record: Record, tmp_path: Path) -> None:
    record.status("running", began_at="then")
    record.status("failed", exit_code=1)
    kept = json.loads((tmp_path / "submissions/try-1/status.json").read_text())
    assert kept["status"] == "failed" and kept["exit_code"] == 1 and kept["began_at"] == "then"
    assert (kept["id"], kept["job"], kept["arguments"]) == ("try-1", "audit", ["s3://bucket/run"])


def test_of_a_long_log_the_end_is_kept(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "LOG_BYTES", 100)
    for number in range(500):
        record.add(b"line %03d\n" % number)
    record.copy_log()
    kept = (tmp_path / "submissions/try-1/log.txt").read_bytes()
    assert len(kept) == 100 and kept.endswith(b"line 498\nline 499\n")


def test_storage_that_fails_costs_the_job_nothing(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "submissions").write_text("a file where a folder should be")
    record.status("running")
    record.status("done")
    assert capsys.readouterr().err.count("is not copied any more") == 1


@pytest.mark.parametrize(
    ("status", "metadata", "before"),
    [
        (JobStatus.RUNNING, {"priority": "6"}, True),
        (JobStatus.PENDING, {"priority": "6"}, True),
        (JobStatus.SUCCEEDED, {"priority": "6"}, False),
        (JobStatus.RUNNING, {"priority": "5"}, False),
        (JobStatus.RUNNING, {"priority": "-9"}, False),
        (JobStatus.RUNNING, {"priority": "six"}, False),
        (JobStatus.RUNNING, {}, False),
        (JobStatus.RUNNING, None, False),
    ],
)
def test_who_goes_before_a_job_of_priority_5(status: JobStatus, metadata: dict[str, str] | None, before: bool) -> None:
    assert goes_before(SimpleNamespace(status=status, metadata=metadata), 5) == before


def test_a_cluster_that_does_not_list_its_jobs_keeps_none_waiting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*given: str) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", refuse)
    assert entry._wait_for_turn("try-1", 0, threading.Event())
    assert capsys.readouterr().out == "try-1 begins: the cluster does not list its other jobs (nobody answers)\n"
