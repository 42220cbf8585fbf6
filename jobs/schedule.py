"""A pipeline's schedule: what is due run now, for cron or systemd to call; or as Kubernetes objects.

    darkroom schedule run manifests/pipelines/mnist-nightly.yaml
    darkroom schedule render s3://bucket/pipelines/mnist-nightly.yaml --kind cronjob | kubectl apply -f -
    kubectl kustomize cluster/kubernetes/overlays/gpu | darkroom schedule render PIPELINE --job - --out schedule.yaml
    python jobs/schedule.py create /etc/darkroom/rayjob.yaml --cron "0 2 * * *" --time-zone Europe/Berlin

`run` ends at SIGTERM or Ctrl-C: a tick that runs is told too, and goes on when it is run again. Exit codes: 0 done, or
nothing is due; 2 the pipeline or an option is wrong; 3 storage or Kubernetes failed, or a tick took too long; else
that of the tick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from darkroom import cli

BASE = "cluster/kubernetes/base/rayjob-train.yaml"
Kind = Literal["cronjob", "raycronjob"]
app = typer.Typer(no_args_is_help=True, help="Run a pipeline on its schedule.")
PipelineFile = Annotated[str, typer.Argument(help="the pipeline file, a path or s3:// uri")]


@app.command()
def run(
    pipeline: PipelineFile,
    once: Annotated[bool, typer.Option("--once", hidden=True)] = False,  # as crontabs have it; there is no other way
) -> None:
    """Run the pipeline's ticks that are due, and end. To be called each hour, or as often as it may be due."""
    with cli.exit_codes():
        from darkroom.retrain.scheduler import run_due

        code = run_due(pipeline, lambda line: print(line, file=sys.stderr, flush=True))
        if code:
            raise typer.Exit(code if code > 0 else cli.ENVIRONMENT)


@app.command()
def render(
    pipeline: PipelineFile,
    at: Annotated[
        str | None, typer.Option(help="the s3:// uri where the cluster finds the file; default PIPELINE")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="raycronjob is KubeRay's, behind a feature gate")] = "cronjob",
    image: Annotated[str | None, typer.Option(help="the image, in place of the one that --job names")] = None,
    job: Annotated[str, typer.Option(help="a file with the RayJob to do it like; - for stdin")] = BASE,
    out: Annotated[Path | None, typer.Option(help="the file to write; default stdout")] = None,
) -> None:
    """Print the Kubernetes objects that run the pipeline on its schedule."""
    with cli.exit_codes():
        from darkroom.retrain.rayjob import read_rayjob
        from darkroom.retrain.render import read_scheduled, rendered

        text = rendered(kind, read_scheduled(pipeline, at, image), read_rayjob(job))
        (sys.stdout if out is None else out.open("w")).write(text)


@app.command()
def create(
    job: Annotated[str, typer.Argument(help="the file that holds the RayJob")],
    cron: Annotated[str, typer.Option(help="when it is due")],
    time_zone: Annotated[str, typer.Option(help="whose clock that is")] = "UTC",
    missed: Annotated[bool, typer.Option("--all", help="the job makes up for missed ticks too")] = False,
) -> None:
    """Create the RayJob of the tick that is due, from inside a pod, unless there is one."""
    with cli.exit_codes():
        from darkroom.retrain.rayjob import create_due

        print(create_due(job, cron, time_zone, not missed, os.environ))


if __name__ == "__main__":
    app()
