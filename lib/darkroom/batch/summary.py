"""How a run stands after a job, and what the user reads of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from darkroom.batch.estimate import Estimate
from darkroom.batch.planning import Work
from darkroom.batch.progress import duration
from darkroom.runs import Ledger


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


def take_stock(ledger: Ledger, work: Work, receipts: Counter[str], busy: dict[str, float], seconds: float) -> Outcome:
    """Counts from the ledger, so that they say what is there and not what this job believes it did."""
    statuses: dict[str, Counter[str]] = {}
    rows = 0
    for record in ledger.records():
        for row in ledger.table(record).select(["task", "status"]).to_pylist():
            statuses.setdefault(row["task"], Counter())[row["status"]] += 1
            rows += 1
    failed = sum(counts["failed"] for counts in statuses.values())
    return Outcome(
        rows=rows,
        counts={task: dict(counts) for task, counts in sorted(statuses.items())},
        made=receipts["ok"],
        failed=failed,
        done_before=work.done,
        seconds=round(seconds, 2),
        evaluations=receipts["evaluations"],
        images_per_second=receipts["rate_milli"] / 1000,
        slowest_stage=max(busy, key=lambda name: busy[name]) if busy else "",
        busy_seconds={name: round(value, 2) for name, value in busy.items()},
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
    """What a dry run prints. needs: the stages' table, see `preflight`."""
    lines = [work.summary()]
    lines += [f"  {task:<16}{count:>10,} to make" for task, count in sorted(work.todo.items())]
    for number, evaluations in estimated.evaluations.items():
        if evaluations:
            timed = estimated.seconds[number]
            about = "" if timed is None else f", about {duration(timed)} on this machine"
            lines.append(f"stage {number}: {evaluations:,} model evaluations{about}")
    return "\n".join([*lines, needs] if needs else lines)
