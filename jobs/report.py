"""Draw what a run has made, or what a training has learned: an index.html that opens from disk, in RUN/report.

    darkroom report runs/demo
    darkroom report runs/demo --animate gif --rows 5000
    darkroom report s3://bucket/run --out report
    darkroom report models/mnist-flow-class
    darkroom report models/ddpm-cosine --samples 500 --against models/ddpm-linear

Exit codes: 0 done; 2 an option does not fit the run; 3 storage failed or there is no run.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from darkroom import cli


class Animation(StrEnum):
    GIF = "gif"
    WEBP = "webp"


def main(
    run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")],
    against: Annotated[str | None, typer.Option(help="another training run of a diffusion, to compare with")] = None,
    rows: Annotated[int, typer.Option(min=1, help="rows to draw of each task or figure")] = 200,
    out: Annotated[str | None, typer.Option(help="a folder to draw into, not RUN/report, as of a run on S3")] = None,
    animate: Annotated[Animation | None, typer.Option(help="draw turning anagrams and strips in motion too")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="pictures to compare a diffusion's samplers by")] = None,
) -> None:
    """Draw the pictures of a run, or what a training run learned, and an index.html."""
    with cli.exit_codes():
        from darkroom.runs.reading import read_run_record
        from darkroom.storage import open_store

        kind = read_run_record(open_store(run)).get("kind", "generation")
        if kind == "training":
            if rows != 200 or out is not None or animate is not None:
                raise ValueError(f"--rows, --out and --animate are for runs of generate; {run} is a training run")
            from darkroom.report.training import write_training_report

            print(write_training_report(run, against, samples))
            return
        if against is not None or samples is not None:
            raise ValueError(f"--against and --samples are for training runs; {run} is a {kind} run")
        from darkroom.report.page import write_report

        print(write_report(run, rows, out or "", animate or ""))


if __name__ == "__main__":
    cli.run(main)
