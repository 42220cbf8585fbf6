"""Jobs sent to a Ray cluster through its job API: submitted once, followed, listed, stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import darkroom
import darkroom.jobs
from darkroom.phases import redacted
from darkroom.ray_cluster.connection import ClusterError, refuse_lost_token
from darkroom.submit.request import Request
from darkroom.submit.secret_values import why_secret

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ENDED_BADLY = 3  # the exit code of a job that was stopped, or lost with its node: the same submission goes on
# For a stopped job to say so in its run; Ray's own 3 seconds are short for storage.
STOP_SECONDS = 30
ENTRY = ("python", "-m", "darkroom.submit.entry")
# What the package is made of. A list of what may go, because one of what may not always lacks something.
SUFFIXES = {
    ".py",
    ".pyi",
    ".js",
    ".png",
    ".json",
    ".safetensors",
    ".parquet",
    ".csv",
    ".html",
    ".css",
    ".svg",
    ".txt",
    ".yaml",
    ".model",
}


class Running(ValueError):
    """Another job writes to the run that was asked for."""


@dataclass(frozen=True)
class Submitted:
    """id: what the cluster calls the job; new: False if it was there already and goes on."""

    id: str
    new: bool


class Cluster:
    """A Ray cluster's job API. ClusterError whenever it does not answer, or refuses; ValueError where none is named."""

    def __init__(self, address: str | None, token: str | None = None) -> None:
        """address: http://HOST:8265, or HOST:6379 of the control plane from one of the cluster's own machines; token:
        in place of the environment's."""
        address = address or os.environ.get("RAY_ADDRESS")
        if not address:
            raise ValueError("no cluster was named: give --address, or set RAY_ADDRESS")
        if (shown := redacted(address)) != address:
            raise ValueError(
                f"--address {shown} had a password in it: a cluster's token comes from RAY_AUTH_TOKEN_PATH"
            )
        self.address = address
        if token is None:
            refuse_lost_token()
        with _reporting(address):
            self._client = _client(address, token)

    def submit(
        self, request: Request, name: str | None, priority: int, image_code: bool, variables: tuple[str, ...] = ()
    ) -> Submitted:
        """Starts a job, unless the same one is under way. variables: names of this process' environment to pass on.

        An ended job's name is used again with a number behind it. Running if another job has the name, ValueError for
        a variable that is a secret, or not set.
        """
        given = _variables(variables)
        base = name or request.name
        attempts = {job.submission_id: job for job in self.jobs() if _is_attempt(job.submission_id, base)}
        for job in attempts.values():
            if not job.status.is_terminal():
                return _same(job, request)
        chosen = base if not attempts else f"{base}-{1 + max(map(_attempt, attempts))}"
        metadata = {"job": request.job, "run": request.run, "request": request.digest, "priority": str(priority)}
        with _reporting(self.address), _environment(image_code, given) as environment:
            try:
                self._client.submit_job(
                    entrypoint=shlex.join([*ENTRY, request.job, *request.arguments]),
                    submission_id=chosen,
                    metadata=metadata,
                    runtime_env=environment,
                )
            except RuntimeError:
                # Somebody was quicker, or it is not about the name.
                job = next((job for job in self.jobs() if job.submission_id == chosen), None)
                if job is None:
                    raise
                return _same(job, request)
        return Submitted(chosen, True)

    def jobs(self) -> list[JobDetails]:
        """Every submitted job the cluster remembers, the oldest first."""
        with _reporting(self.address):
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def job(self, name: str) -> JobDetails:
        with _reporting(self.address):
            return self._client.get_job_info(name)

    def log(self, name: str) -> str:
        with _reporting(self.address):
            return self._client.get_job_logs(name)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes as Ray's dashboard lists them, dead ones too: their address, state, resources and use."""
        with _reporting(self.address):
            # The client lists jobs alone, and knows how to come in; its request is the one that has no other name.
            answer = self._client._do_request("GET", "/nodes?view=summary")
            answer.raise_for_status()
            return answer.json()["data"]["summary"]

    def follow(self, name: str, say: Callable[[str], None]) -> int:
        """Says the job's log as it grows, until the job's end; its exit code."""
        said = 0
        while True:
            job = self.job(name)  # asked before: where a connection breaks, a job that ends then has said more
            said = self._tail(name, said, say)
            if job.status.is_terminal():
                return exit_code(job)
            time.sleep(1)  # the connection broke, the job goes on

    def stop(self, name: str) -> JobDetails:
        """Ends a job and returns when it has ended; what it committed stays. ClusterError if it does not end."""
        with _reporting(self.address):
            self._client.stop_job(name)
        deadline = time.monotonic() + 2 * STOP_SECONDS
        while time.monotonic() < deadline:
            job = self.job(name)
            if job.status.is_terminal():
                return job
            time.sleep(0.5)
        raise ClusterError(f"{name} was told to stop {2 * STOP_SECONDS} s ago and still runs")

    def _tail(self, name: str, skip: int, say: Callable[[str], None]) -> int:
        """Says what comes after the log's first `skip` characters, until the connection ends; how many those are."""
        import aiohttp

        seen = 0

        async def read() -> None:
            nonlocal seen
            async for text in self._client.tail_job_logs(name):
                new = text[max(0, skip - seen) :]
                seen += len(text)
                if new:
                    say(new)

        # Whether the job has ended, or the cluster has, is for the next question to find out.
        with suppress(RuntimeError, aiohttp.ClientError):
            asyncio.run(read())
        return max(seen, skip)


def exit_code(job: JobDetails) -> int:
    """The job's own; ENDED_BADLY if it was not let come to its end."""
    return ENDED_BADLY if job.driver_exit_code is None or job.status == "STOPPED" else job.driver_exit_code


def describe(job: JobDetails) -> str:
    """A line for a list."""
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((job.start_time or 0) / 1000))
    ended = (job.end_time or time.time() * 1000) / 1000
    code = "" if job.driver_exit_code is None else f" ({job.driver_exit_code})"
    seconds = f"{ended - (job.start_time or 0) / 1000:.0f} s"
    return (
        f"{job.submission_id:<50} {job.status + code:<14} {began}  {seconds:>8}  {(job.metadata or {}).get('run', '')}"
    )


def _client(address: str, token: str | None) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)  # each sets its own level when it is imported
    # Both would be taken in place of the address that was given.
    kept = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


@contextmanager
def _reporting(address: str) -> Iterator[None]:
    """Whatever the job API's client raises, as a sentence; ValueError for a job there is not."""
    import ray
    import requests

    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"the cluster at {address} refused: it wants its token. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH"
        ) from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ClusterError(f"the cluster at {address} does not answer: {_first_line(error)}") from error
    except RuntimeError as error:
        if isinstance(error, ClusterError):
            raise
        if "status code 404" in str(error):
            raise ValueError(
                f"the cluster at {address} knows no such job; `darkroom jobs` lists those it knows"
            ) from error
        raise ClusterError(f"the cluster at {address}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


@contextmanager
def _environment(image_code: bool, variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What the job runs in: this code, unless the image's is wanted, and the variables that were named."""
    environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **variables}}
    if image_code:
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-code-") as folder:
        stage_code(folder)
        yield {**environment, "working_dir": folder}


def stage_code(folder: str) -> None:
    """Copies the package, jobs included, to FOLDER/darkroom. Hidden files and files of other kinds stay here."""
    target = Path(folder, "darkroom")
    _copy(Path(darkroom.__path__[0]), target)
    _copy(Path(darkroom.jobs.__path__[0]), target / "jobs")


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
        if path.is_file() and path.suffix in SUFFIXES and not hidden:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)


def _variables(names: tuple[str, ...]) -> dict[str, str]:
    """Their values. Ray shows a job's variables to everybody who may ask about the job, so none may be a secret."""
    for name in names:
        if kind := why_secret(name, os.environ.get(name, "")):
            raise ValueError(
                f"--env {name}: it looks like {kind}, and whoever may see a job can read its variables. Secrets are "
                "the cluster's to have: set it where its nodes are started, on Kubernetes in the Secret of "
                "cluster/kubernetes/secret.example.yaml, and jobs find it there"
            )
        if name not in os.environ:
            raise ValueError(f"--env {name}: it is not set here")
    return {name: os.environ[name] for name in names}


def _is_attempt(name: str, base: str) -> bool:
    return name == base or (name.startswith(f"{base}-") and name[len(base) + 1 :].isdigit())


def _attempt(name: str) -> int:
    number = name.rpartition("-")[2]
    return int(number) if number.isdigit() and len(number) < 8 else 1


def _same(job: JobDetails, request: Request) -> Submitted:
    if (job.metadata or {}).get("request") == request.digest:
        return Submitted(job.submission_id, False)
    raise Running(
        f"{job.submission_id} writes to {request.run or 'the same place'} and was asked something else:\n"
        f"  {job.entrypoint}\nwait for its end, or `darkroom stop {job.submission_id}`"
    )


def copied(run: str, name: str, what: str) -> str:
    """What a job left of itself in its run: "status.json" or "log.txt". NotFound, StorageError."""
    from darkroom.storage import open_store

    return open_store(run).read(f"submissions/{name}/{what}").decode(errors="replace")


def copied_jobs(run: str) -> list[dict[str, Any]]:
    """The status of every job that was submitted for a run, by what it left there."""
    from darkroom.storage import open_store

    store = open_store(run)
    found = [json.loads(store.read(key)) for key in store.list("submissions/") if key.endswith("/status.json")]
    return sorted(found, key=lambda one: one["at"])
