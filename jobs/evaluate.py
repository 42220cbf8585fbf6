"""Measure a cascade of painted digits: is the asked digit there, in the asked colour?

    darkroom evaluate if-xs --out runs/quality
    darkroom evaluate models/if-xs --out s3://bucket/quality --count 100 --guidance 4
    python jobs/evaluate.py if-xs --out runs/quality

Writes contact sheets (what was judged wrong is framed) and quality.json. Exit codes: 0 done; 2 the model or an argument
is wrong; 3 storage failed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(
    model: Annotated[str, typer.Argument(help="an embedded model's name or a model's folder")],
    out: Annotated[str, typer.Option(help="where the figures go, a folder or s3://bucket/prefix")],
    count: Annotated[int, typer.Option(min=1, help="pictures to sample")] = 500,
    stride: Annotated[int, typer.Option(min=1, help="of the timesteps; 30 makes 34 steps")] = 30,
    guidance: Annotated[float, typer.Option(help="of stage I")] = 7.0,
    seed: Annotated[int, typer.Option(help="of the first picture; the others follow")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", help="show tracebacks")] = False,
) -> None:
    """Measure a cascade of painted digits."""
    with cli.exit_codes(verbose):
        from darkroom.training.evaluate import evaluate

        evaluation = evaluate(model, out, count, stride, guidance, seed)
        print(f"{evaluation.text()}\nquality.json and the contact sheets lie in {out}")


if __name__ == "__main__":
    typer.run(main)
