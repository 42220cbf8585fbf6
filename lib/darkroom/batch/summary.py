"""How a run stands after a job, and what the user reads of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from darkroom.batch.estimate import Estimate
from darkroom.batch.planning import Work
from darkroom.batch.progress import duration
from darkroom.runs import Log


@dataclass
class Outcome:
    """How a run stands after a job."""

    rows: int
    counts: dict[str, dict[str, int]]
    made: int
    failed: int
    done_before: int
    seconds: float
    evaluations: int
    images_per_second: float
    slowest_stage: str = ""
    busy_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Developed:
    """What a job's workers did. totals: of committed rows, "ok" and "failed", and "evaluations"; busy: seconds of work
    by stage; rate: rows a second."""

    totals: Counter[str] = field(default_factory=Counter)
    busy: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0


def take_stock(log: Log, work: Work, developed: Developed, seconds: float) -> Outcome:
    """Counts from the log, so that they say what is there and not what this job believes it did."""
    counts = log.counts
    failed = sum(statuses["failed"] for statuses in counts.values())
    return Outcome(
        rows=log.rows,
        counts={task: dict(statuses) for task, statuses in counts.items()},
        made=developed.totals["ok"],
        failed=failed,
        done_before=work.done,
        seconds=round(seconds, 2),
        evaluations=developed.totals["evaluations"],
        images_per_second=round(developed.rate, 3),
        slowest_stage=max(developed.busy, key=developed.busy.__getitem__, default=""),
        busy_seconds={name: round(value, 2) for name, value in developed.busy.items()},
    )


def describe(outcome: Outcome, out: str) -> str:
    """What the user reads at the end."""
    lines = [f"{outcome.rows:,} rows in {out}"]
    for task, counts in outcome.counts.items():
        lines.append(f"  {task:<16}" + ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())))
    lines.append(f"made {outcome.made:,} in {duration(outcome.seconds)}, {outcome.evaluations:,} model evaluations")
    if outcome.slowest_stage:
        lines.append(
            f"slowest stage: {outcome.slowest_stage}, busy {duration(outcome.busy_seconds[outcome.slowest_stage])}"
        )
    return "\n".join(lines)


def describe_work(work: Work, estimated: Estimate, needs: str = "") -> str:
    """What a dry run prints. needs: the stages' table, see `placement.table`."""
    lines = [work.summary()]
    lines += [f"  {task:<16}{count:>10,} to make" for task, count in sorted(work.todo.items())]
    for number, evaluations in estimated.evaluations.items():
        if evaluations:
            timed = estimated.seconds[number]
            about = "" if timed is None else f", about {duration(timed)} on this machine"
            lines.append(f"stage {number}: {evaluations:,} model evaluations{about}")
    return "\n".join([*lines, needs] if needs else lines)
