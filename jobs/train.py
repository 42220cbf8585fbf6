"""Train a model from an ingested data set.

    darkroom train if-xs --data data/mnist --out models/if-xs
    darkroom train if-xs --data data/mnist --out models/try --set stage1_steps=200 --set stage2_steps=100
    darkroom train mnist-classifier --data data/mnist --out models/classifier
    python jobs/train.py if-xs --data s3://bucket/mnist --out models/if-xs

if-xs goes on from its last checkpoint when the same command is run again. Exit codes: 0 done; 1 the training diverged;
2 the recipe, a setting or the data is wrong; 3 storage failed.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from darkroom import cli


def main(
    recipe: Annotated[str, typer.Argument(help="what to train: if-xs, mnist-classifier")],
    data: Annotated[str, typer.Option(help="an ingested data set, a folder or s3:// uri")],
    out: Annotated[str, typer.Option(help="the model's folder")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, a field of the recipe")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="show tracebacks")] = False,
) -> None:
    """Train a model from an ingested data set."""
    with cli.exit_codes(verbose):
        from darkroom.training.recipes import train

        try:
            train(recipe, data, out, settings or [])
        except FloatingPointError as error:
            print(f"darkroom: {error}", file=sys.stderr)
            raise typer.Exit(cli.FAILED) from None
        print(f"the model lies in {out}")


if __name__ == "__main__":
    typer.run(main)
