"""What is due on a schedule: a pipeline's ticks, run now, for cron or systemd to call; or, as Kubernetes objects, a
pipeline or a data set of each night.

    darkroom schedule run manifests/pipelines/mnist-nightly.yaml
    darkroom schedule render s3://bucket/manifests/pipelines/mnist-nightly.yaml --kind cronjob | kubectl apply -f -
    kubectl kustomize cluster/kubernetes/overlays/gpu | darkroom schedule render PIPELINE --job - > schedule.yaml
    darkroom schedule render --generate s3://bucket/digits.yaml --out "s3://bucket/digits/{date}" --cron "0 4 * * *"
    python jobs/schedule.py create /etc/darkroom/rayjob.yaml --cron "0 2 * * *" --time-zone Europe/Berlin

`run` ends at SIGTERM or Ctrl-C: a tick that runs is told too, and goes on when it is run again. Exit codes: 0 done, or
nothing is due; 2 the pipeline or an option is wrong; 3 storage or Kubernetes failed, or a tick took too long; else
that of the tick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer

from darkroom import cli

BASE = "cluster/kubernetes/base/rayjob-{}.yaml"
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


@app.command(context_settings={"ignore_unknown_options": True})
def render(
    pipeline: Annotated[
        list[str] | None,
        typer.Argument(help="the pipeline file, a path or s3:// uri; with --generate, options of `darkroom generate`"),
    ] = None,
    generate: Annotated[
        str | None,
        typer.Option(
            metavar="MANIFEST",
            help="no pipeline: make what this manifest asks for; its options follow, {date} is filled in",
        ),
    ] = None,
    cron: Annotated[str | None, typer.Option(help="of --generate: when it is due; a pipeline says it itself")] = None,
    time_zone: Annotated[str, typer.Option(help="of --generate: whose clock that is")] = "UTC",
    name: Annotated[str | None, typer.Option(help="of --generate: in Kubernetes; default the manifest's")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="URI", help="where the cluster finds the file, if not there")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="raycronjob is KubeRay's, behind a feature gate")] = "cronjob",
    image: Annotated[str | None, typer.Option(help="the image, in place of the one that --job names")] = None,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=f"a file with the RayJob to do it like; - for stdin; default a checkout's {BASE.format('*')}",
        ),
    ] = None,
) -> None:
    """Print the Kubernetes objects that run a pipeline, or make a data set, on a schedule.

    darkroom schedule render --generate MANIFEST --model M --out "s3://bucket/run/{date}" --cron "0 4 * * *" --workers 4
    """
    with cli.exit_codes():
        from darkroom.retrain.rayjob import read_rayjob
        from darkroom.retrain.render import read_scheduled, rendered

        given = pipeline or []
        if generate is None:
            if len(given) != 1 or given[0].startswith("-") or cron is not None:
                raise ValueError(f"wanted one pipeline file, or --generate MANIFEST with its --cron; was {given}")
            base = read_rayjob(job or BASE.format("train"), "train")
            print(rendered(kind, read_scheduled(given[0], at, image), base), end="")
            return
        if cron is None:
            raise ValueError('--generate wants to know when it is due: --cron "0 4 * * *"')
        from darkroom.submit.nightly import read_nightly

        base = read_rayjob(job or BASE.format("generate"), "generate")
        scheduled, notes = read_nightly(generate, at, given, cron, time_zone, base, name, image)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        print(rendered(kind, scheduled, base), end="")


@app.command()
def create(
    job: Annotated[str, typer.Argument(help="the file that holds the RayJob")],
    cron: Annotated[str, typer.Option(help="when it is due")],
    time_zone: Annotated[str, typer.Option(help="whose clock that is")] = "UTC",
) -> None:
    """Create the RayJob of the tick that is due, from inside a pod, unless there is one."""
    with cli.exit_codes():
        from darkroom.retrain.rayjob import create_due

        print(create_due(job, cron, time_zone, os.environ))


if __name__ == "__main__":
    cli.run(app)
