"""The Ray cluster that jobs run on: joined, or started on this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

SHELL = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")  # what a shell has that may come into a cluster
STARTS = 3  # of Ray here, at most: it gives its processes 15 seconds to come up, and a busy machine needs more
SHORT_FOLDER = 36  # characters: of the 107 of a socket's path, Ray takes up to 70 behind it


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked, or broke while doing it."""


def refuse_lost_token() -> None:
    """ClusterError where the shell still names the token of a cluster that has ended: Ray ends the process for it, with
    the stack of its C++. It does not look at the path where RAY_AUTH_TOKEN holds one."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token and not os.environ.get("RAY_AUTH_TOKEN") and not os.path.isfile(token):
        raise ClusterError(
            f"RAY_AUTH_TOKEN_PATH names {token}, which is not there, as after `darkroom cluster down`: to forget that "
            f"cluster, unset {' '.join(SHELL)}"
        )


def connect(address: str | None, verbose: bool) -> None:
    """Joins the cluster at `address` (HOST:PORT of its control plane, or "auto"), or starts one on this machine, quiet
    and with no dashboard. ClusterError; ValueError for the address of a job API, or of Ray Client."""
    refuse_lost_token()
    import ray  # here: whoever only catches a ClusterError need not wait for it
    import ray.data

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray Data asks for a Prometheus to gather them from
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = verbose
    context.retried_io_errors = []  # our own storage layer retries, and knows what it is retrying
    context.raise_original_map_exception = True  # Ray's wrapper loses what it wraps on its way between processes
    if not verbose:
        _hush()
    if ray.is_initialized():
        return
    if address and address.startswith(("http://", "https://")):
        raise ValueError(f"{address} is where jobs are sent to: `darkroom submit`. To join wants HOST:6379, or auto")
    if address and address.startswith("ray://"):
        raise ValueError(
            f"{address} is Ray Client's, which cannot run a job. One of the cluster's own machines joins by HOST:6379, "
            "or auto; from elsewhere a job is sent: `darkroom submit`, to http://HOST:8265"
        )
    level = "info" if verbose else "error"
    try:
        with nullcontext() if verbose else _closed_stderr(), _own_signals():
            if address:
                ray.init(address, logging_level=level, log_to_driver=verbose)
            else:
                start_ray(logging_level=level, log_to_driver=verbose, object_store_memory=512 * 2**20)
    except Exception as error:
        if not isinstance(error, (OSError, RuntimeError)) and not _late(error):
            raise
        token = "; if it is up, is its token in RAY_AUTH_TOKEN_PATH, and RAY_AUTH_MODE=token?" if address else ""
        of_files = isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError))
        reason = _advice_on_folder(error) if of_files else f"{error}{token}"
        raise ClusterError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error


def start_ray(**options: Any) -> None:
    """Starts a Ray on this machine, with no dashboard, and joins it; anew where its processes did not come up in time.
    options: of `ray.init`, whose errors it raises."""
    import ray

    for start in range(1, STARTS + 1):
        try:
            ray.init("local", include_dashboard=False, **options)
            return
        except Exception as error:
            if not _late(error) or start == STARTS:
                raise


def _late(error: Exception) -> bool:
    """Whether a node did not come up in time, which Ray raises as a bare Exception."""
    return type(error) is Exception


def _advice_on_folder(error: Exception) -> str:
    """Ray keeps its sockets, logs and spilled objects in a folder, and the token of its clusters in another; what is
    wrong with that, and with which."""
    home, path = os.path.expanduser("~"), getattr(error, "filename", None)
    if path and (f"{path}/".startswith(f"{home}/.ray/") or f"{home}/".startswith(f"{path}/")):
        return f"{error}; Ray keeps a token in ~/.ray: set HOME to a folder that it can write to, or RAY_AUTH_TOKEN"
    given = os.environ.get("RAY_TMPDIR")
    folder = f"RAY_TMPDIR is {given}" if given else "RAY_TMPDIR is not set: Ray takes /tmp"
    if "AF_UNIX" in str(error):
        wanted = f"a folder of at most {SHORT_FOLDER} characters, such as /tmp"
        return f"{folder}, {len(given or '')} characters, too long for the paths of Ray's sockets; set it to {wanted}"
    return f"{error}; {folder}, and Ray needs room and permission to write there"


def errors_of_ray() -> tuple[type[Exception], ...]:
    """Whatever Ray raises, to be caught before ValueError: of a worker's ValueError Ray's wrapper is one too. Nothing
    where Ray was never imported, as it need not be to say that an argument is wrong."""
    return (sys.modules["ray"].exceptions.RayError,) if "ray" in sys.modules else ()


def node_resources() -> list[dict[str, float]]:
    """What each living node of the connected cluster has, by the resource's name."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def beside() -> dict[str, Any]:
    """Options of an actor that lies on this process' node: one that asks for nothing may lie on any, and be lost with
    it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def free() -> str:
    """What of the connected cluster nobody holds, in words."""
    import ray

    have, free = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if kind in have]
    return "free in the cluster: " + ", ".join(f"{free.get(kind, 0):g} of {have[kind]:g} {kind}" for kind in kinds)


def _hush() -> None:
    """Ray Data prints what a worker raised twice, with its stack; we say it in one sentence. Its log files have it."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray ends its driver at SIGTERM as a crash, with C++ frames: whoever was to be told before is still told."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _closed_stderr() -> Iterator[None]:
    """Ray's C++ side greets on stderr that it will be quiet. What goes wrong in there comes as an exception."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
