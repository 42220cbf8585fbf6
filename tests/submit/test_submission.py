"""What a cluster's job API says, without a cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from darkroom.submit import submission
from darkroom.submit.submission import Cluster

FOLLOW = """
import sys, time
from types import SimpleNamespace
from darkroom import exits
from darkroom.submit.commands import _follow

def follow(name, say):
    print("follows", flush=True)
    time.sleep(60)

with exits.exit_codes():
    sys.exit(_follow(SimpleNamespace(follow=follow), "generate-1"))
"""
LINES = ["one\n", "two\n", "three\n"]


class _Api:
    """A job that ends while the connection that its log comes by is broken."""

    def __init__(self) -> None:
        self.ended = False

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        yield LINES[0]
        if not self.ended:
            self.ended = True
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        for line in LINES[1:]:
            yield line

    def get_job_info(self, name: str) -> SimpleNamespace:
        code = 3 if self.ended else None
        return SimpleNamespace(status=JobStatus.FAILED if self.ended else JobStatus.RUNNING, driver_exit_code=code)


def test_the_last_lines_are_said_where_the_connection_breaks_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_client", lambda address, token: _Api())
    monkeypatch.setattr(submission.time, "sleep", lambda seconds: None)
    said: list[str] = []
    assert Cluster("http://127.0.0.1:1", token="t").follow("job", said.append) == 3
    assert said == LINES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_to_follow_a_job_is_not_told_that_it_is_done(number: signal.Signals) -> None:
    command = [sys.executable, "-c", FOLLOW]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "follows\n"
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert said == "\ngenerate-1 goes on; `darkroom stop generate-1` ends it\n"
