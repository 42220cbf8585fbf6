"""What a job is on the cluster, without one: its own exit code, its record in the run, its turn."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from ray.job_submission import JobStatus

from darkroom.storage import LocalStore, open_store
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


def test_a_run_at_a_place_that_is_none_is_refused_by_the_job(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """As an entry point of one's own may name it, which nobody has checked: with 2, in a sentence."""
    monkeypatch.setattr(entry, "_wait_for_turn", lambda *_: True)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert entry.main(["failed", "gs://bucket/run"]) == 2
    said = capfdbinary.readouterr().out
    assert b"unknown scheme 'gs'" in said and b"Traceback" not in said


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
    assert capsys.readouterr().err.count("cannot be copied") == 1


def test_storage_that_is_back_gets_what_it_missed(record: Record, tmp_path: Path) -> None:
    (tmp_path / "submissions").write_text("a file where a folder should be")
    record.status("running")
    record.add(b"the last line\n")
    record.copy_log()
    (tmp_path / "submissions").unlink()
    record.copy_log()
    record.status("failed", exit_code=3)
    assert (tmp_path / "submissions/try-1/log.txt").read_bytes() == b"the last line\n"
    assert json.loads((tmp_path / "submissions/try-1/status.json").read_text())["exit_code"] == 3


def test_a_slow_copy_of_the_log_does_not_replace_a_later_one(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, asked, goes_on = LocalStore.write, threading.Event(), threading.Event()

    def slow(store: LocalStore, key: str, data: bytes) -> None:
        if data == b"one\n":
            asked.set()
            assert goes_on.wait(60)
        write(store, key, data)

    monkeypatch.setattr(LocalStore, "write", slow)
    record.add(b"one\n")
    first = threading.Thread(target=record.copy_log)
    first.start()
    assert asked.wait(60)
    record.add(b"two\n")
    last = threading.Thread(target=record.copy_log)
    last.start()
    last.join(0.2)  # as long as one that does not wait takes
    goes_on.set()
    first.join(), last.join()
    assert (tmp_path / "submissions/try-1/log.txt").read_bytes() == b"one\ntwo\n"


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


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError, requests.exceptions.ReadTimeout])
def test_a_cluster_that_does_not_list_its_jobs_keeps_none_waiting(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*given: str) -> None:
        raise error("nobody answers")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", refuse)
    assert entry._wait_for_turn("try-1", 0, threading.Event())
    assert capsys.readouterr().out == "try-1 begins: the cluster does not list its other jobs (nobody answers)\n"


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError, requests.exceptions.ReadTimeout])
@pytest.mark.parametrize("hiccups", [3, entry.UNANSWERED - 1, entry.UNANSWERED])
def test_a_job_that_waits_does_so_through_hiccups_of_the_cluster(
    error: type[Exception], hiccups: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    higher = SimpleNamespace(submission_id="night", status=JobStatus.RUNNING, metadata={"priority": "1"})
    answers = [[higher], *[error("nobody answers")] * hiccups, [higher], error("nobody answers"), []]
    asked = iter(answers)

    def list_jobs() -> list[SimpleNamespace]:
        answer = next(asked)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda: SimpleNamespace(list_jobs=list_jobs))
    monkeypatch.setattr(entry, "TURN_SECONDS", 0)
    assert entry._wait_for_turn("try-1", 0, threading.Event())
    waits = "try-1 waits for night, which has a higher priority\n"
    begins = "try-1 begins: the cluster does not list its other jobs (nobody answers)\n"
    gave_up = hiccups == entry.UNANSWERED
    assert capsys.readouterr().out == (waits + begins if gave_up else waits)
    assert len(list(asked)) == (3 if gave_up else 0), "else it begins when the other has ended"
