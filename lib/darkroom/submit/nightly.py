"""A data set that is made on a schedule: `darkroom generate` as the job of a schedule's ticks.

The manifest, the run and every other option may say {date}, the day of the tick where the schedule's clock hangs, or
{tick}, as 20261121T020000Z. They are filled in when the tick's RayJob is created, so that a night that is tried again
after midnight goes on with its own run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from darkroom.retrain.rayjob import DATE_WORD, TICK_WORD, Object
from darkroom.retrain.render import Scheduled, worker_groups
from darkroom.retrain.schema import Schedule
from darkroom.retrain.times import check_cron, read_zone
from darkroom.submit.request import check_manifest, command_of, refuse_local, refuse_secrets, spell
from darkroom.submit.submission import ENTRY

PLAIN = re.compile(r"[\w.,:/@=+-]+", re.ASCII)


def read_nightly(
    manifest: str,
    at: str | None,
    options: Sequence[str],
    cron: str,
    time_zone: str,
    base: Object,
    name: str | None = None,
    image: str | None = None,
) -> tuple[Scheduled, list[str]]:
    """What is to run on the pods of `base`, a RayJob, and what to say to the user.

    manifest: checked, row by row, where it is a file of this machine; at: where the cluster finds it, None: at
    `manifest`. options: of `darkroom generate`. Without --workers as many as the base has nodes that work.

    Raises typer's errors of usage, ValueError for the user's part, StorageError.
    """
    check_cron(cron), read_zone(time_zone)
    command, place = command_of("generate"), at or manifest
    refuse_secrets([place, *options])
    context = command.make_context("generate", [place, *options])
    given = dict(context.params)
    _check_places(at, place, given["out"])
    refuse_local(given, {parameter.name: parameter.opts[0] for parameter in command.params}, "")
    if Path(manifest).is_file():
        notes = check_manifest(manifest, given["model"], bool(given.get("scorer")), given)
    else:
        notes = [f"the manifest {place} was not looked at; each night's job does, before anything else"]
    given["workers"], replicas = _workers(given["workers"], base)
    words = [*ENTRY, "generate", *spell(command, context, given)]
    for word in words:
        if not PLAIN.fullmatch(word.replace(DATE_WORD, "").replace(TICK_WORD, "") or "-"):
            raise ValueError(
                f"{word!r}: KubeRay pastes the command into a shell's line, so it must be of plain letters, digits and "
                f"_ . , : / @ = + -, besides {DATE_WORD} and {TICK_WORD}"
            )
    stem = re.sub(r"\{\w+\}", "", Path(manifest).stem).strip("-_.")
    schedule = Schedule(cron=cron, time_zone=time_zone)
    entrypoint = " ".join(words)
    return Scheduled(name or f"generate-{stem}"[:30], schedule, entrypoint, image, "generate", replicas), notes


def _check_places(at: str | None, place: str, out: str) -> None:
    if not place.startswith(("s3://", "/")) or (at is None and Path(place).exists()):
        raise ValueError(
            f"{place}: a cluster's nodes do not see this machine's files; wanted s3://bucket/manifest.yaml, or the "
            "path in the image, as /app/manifests/demo.yaml; say where by --at, and the file here is checked now"
        )
    if not out.startswith("s3://"):
        raise ValueError(f"--out {out}: wanted s3://bucket/prefix/{DATE_WORD}, which all nodes see")


def _workers(asked: int | None, base: Object) -> tuple[int | None, int | None]:
    """(actors per stage, nodes that work). On processors it wants as many of these as of those."""
    groups = worker_groups(base["spec"])
    if len(groups) != 1 or groups[0].get("resources"):  # set apart by stage, or the head works alone: as the base is
        return asked, None
    count = asked or groups[0].get("replicas")
    if not count:
        raise ValueError(f"the RayJob's group {groups[0].get('groupName')} has no replicas: say by --workers how many")
    return count, count
