"""What a CronJob's pod does: finds the tick that is due, and creates its RayJob unless there is one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from darkroom.retrain.kubernetes_api import ACCOUNT, Api, owned
from darkroom.retrain.rayjob import of_tick, read_rayjob
from darkroom.retrain.times import check_cron, last_fire, tick_id


def create_due(
    file: str,
    cron: str,
    time_zone: str,
    alone: bool,
    environment: Mapping[str, str],
    account: Path = ACCOUNT,
) -> str:
    """A sentence that says what was done. file: holds a RayJob; alone: see `of_tick`.

    Raises ValueError for the user's part, ClusterError.
    """
    check_cron(cron)
    due = last_fire(cron, time_zone, datetime.now(UTC))
    if due is None:
        raise ValueError(f"{cron!r} in {time_zone} was never due yet")
    job = of_tick(read_rayjob(file), tick_id(due), alone)
    job = owned(job, environment.get("JOB_NAME"), environment.get("JOB_UID"))
    name = job["metadata"]["name"]
    if Api.of_this_pod(environment, account).create_rayjob(job):
        return f"created RayJob {name}: {job['spec']['entrypoint']}"
    return f"RayJob {name} is there already: the tick was begun before"
