"""Train a network from an ingested data set, by a recipe, on one worker or many.

    darkroom train mnist-flow-class --data data/mnist --out models/flow
    darkroom train mnist-flow-class --data data/mnist --out models/small --set hidden=32 --set epochs=5
    darkroom train cifar10-ddpm --data s3://bucket/cifar10 --out s3://bucket/models/cifar10 --workers 8
    darkroom train mnist-flow-class --data data/mnist --out models/flow --resume
    darkroom train lora --data data/style --model sd-xs --out models/style --set rank=8 --set epochs=50
    python jobs/train.py mnist-ddpm --data data/mnist --out models/ddpm

Exit codes: 0 done; 1 the training diverged; 2 the recipe, a setting or the data is wrong; 3 storage or the cluster
failed, and the same command with --resume goes on.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from darkroom import cli
from darkroom.phases import phase, to_stderr

RECIPES = (  # known before torch is imported
    "mnist-denoiser", "mnist-denoiser-pure-noise", "mnist-flow-time", "mnist-flow-class",
    "mnist-flow-class-constant-lr", "mnist-ddpm", "cifar10-ddpm", "if-xs", "sd-xs", "classifier", "lora",
)  # fmt: skip
LORA = "lora"


def main(
    recipe: Annotated[str, typer.Argument(help=f"what to train: {', '.join(RECIPES)}")],
    data: Annotated[str, typer.Option(help="an ingested data set, a folder or s3:// uri")],
    out: Annotated[str, typer.Option(help="the run and model's folder or s3://bucket/prefix")],
    model: Annotated[str | None, typer.Option(help="of lora: the model that the adapter is for")] = None,
    layout: Annotated[str | None, typer.Option(help="of lora: the adapter's file, diffusers or kohya")] = None,
    workers: Annotated[str, typer.Option(help="how many share each batch, or a range such as 2:8")] = "1",
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in --out")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, a field of the recipe")] = None,
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster's address; default RAY_ADDRESS, else this machine")
    ] = None,
    report: Annotated[bool, typer.Option(help="draw RUN/report at the end")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", help="let Ray talk; show tracebacks")] = False,
) -> None:
    """Train a network from an ingested data set."""
    with cli.exit_codes(verbose):
        from darkroom.sampling.names import unknown
        from darkroom.training.data import read_record

        if recipe not in RECIPES:
            raise unknown("recipe", recipe, RECIPES)
        if model is not None and recipe != LORA:
            raise ValueError(f"--model says what an adapter is for, and {recipe} trains a network of its own")
        if layout is not None and recipe != LORA:
            raise ValueError(f"--layout says how an adapter's file is laid out, and {recipe} trains a network")
        read_record(data, "captions" if recipe == LORA else "labels")
        phase(to_stderr, "importing torch")
        from darkroom.training.job import TrainOptions, kept, train

        of_lora = [f"{name}={given}" for name, given in (("model", model), ("layout", layout)) if given]
        options = TrainOptions(
            recipe=recipe,
            data=data,
            out=out,
            settings=(*of_lora, *(settings or ())),
            workers=workers,
            resume=resume,
            address=address or os.environ.get("RAY_ADDRESS"),
            verbose=verbose,
        )
        try:
            train(options, to_stderr)
        except FloatingPointError as error:
            print(f"darkroom: {error}", file=sys.stderr)
            raise typer.Exit(cli.FAILED) from None
        except KeyboardInterrupt as error:
            error.args = (kept(out),)
            raise
        print(f"the model lies in {out}")
        if report:
            phase(to_stderr, "drawing the report; --no-report does without")
            from darkroom.report.training import write_training_report

            print(write_training_report(out))


if __name__ == "__main__":
    cli.run(main)
