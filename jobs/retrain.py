"""Run a pipeline's tick: ingest what is new, train, evaluate, gate, promote, try out, generate.

    darkroom retrain manifests/pipelines/mnist-nightly.yaml
    darkroom retrain manifests/pipelines/mnist-nightly.yaml --tick 2026-11-21T02:00:00Z
    darkroom retrain manifests/pipelines/mnist-nightly.yaml --check
    python jobs/retrain.py s3://bucket/pipelines/digits.yaml --address auto

Without --tick: the ticks that are due by the file's schedule, which its `missed` decides; without a schedule, now. A
tick that is over is left as it is; one that was interrupted goes on. "skipped" and "refused" are results.
Exit codes: 0 done; 1 the training diverged, or the new model failed its smoke manifest; 2 the file or the data is
wrong; 3 storage or the cluster failed, and the same command goes on.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from darkroom import cli


def main(
    pipeline: Annotated[str, typer.Argument(help="the pipeline file, a path or s3:// uri")],
    tick: Annotated[str | None, typer.Option(help="its scheduled time, as 2026-11-21T02:00:00Z")] = None,
    check: Annotated[bool, typer.Option("--check", help="only read the file, and say what is due")] = False,
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster's address; default RAY_ADDRESS, else this machine")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="let Ray talk; show tracebacks")] = False,
) -> None:
    """Run a pipeline's tick: ingest what is new, train, evaluate, gate, promote, try out, generate."""
    with cli.exit_codes(verbose):
        from darkroom.retrain.pipeline_file import read_pipeline

        asked = read_pipeline(pipeline)
        from darkroom.retrain.scheduler import due_ticks
        from darkroom.retrain.tick import run_tick  # not before: torch and Ray cost seconds
        from darkroom.retrain.times import tick_id

        due = due_ticks(asked, tick)
        if check:
            print(f"{asked.name}: due: {', '.join(map(tick_id, due)) or 'nothing'}")
            raise typer.Exit(cli.DONE)
        if not due:
            print(f"{asked.name}: nothing is due")
        try:
            where = address or os.environ.get("RAY_ADDRESS")
            done = []
            for moment in due:
                record = run_tick(asked, moment, lambda line: print(line, file=sys.stderr), where)
                print(f"{record.id}  {record.outcome}  {record.data['reason']}", flush=True)
                done.append(record)
        except FloatingPointError as error:
            print(f"darkroom: {error}", file=sys.stderr)
            raise typer.Exit(cli.FAILED) from None
        except KeyboardInterrupt as error:
            error.args = (f"what is done of the tick is kept; it goes on by --tick {tick_id(moment)}",)
            raise
        if done:
            print(f"index.html lies in {asked.out}")
        raise typer.Exit(cli.FAILED if any(record.has_failures for record in done) else cli.DONE)


if __name__ == "__main__":
    cli.run(main)
