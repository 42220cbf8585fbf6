"""Make the pictures a manifest asks for.

    darkroom generate manifests/demo.yaml --out runs/demo
    darkroom generate jobs.jsonl --out s3://bucket/run --workers 8 --capacity 64
    darkroom generate jobs.jsonl --out runs/try --limit 20 --dry-run
    python jobs/generate.py manifests/demo.yaml --out runs/demo

The same command again makes only what is missing or changed. Exit codes: 0 done; 1 some rows failed; 2 the manifest or
an argument is wrong; 3 storage or the cluster failed.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from darkroom import cli


def main(
    manifest: Annotated[str, typer.Argument(help="rows to make: .jsonl, .parquet, .csv or .yaml, a path or s3:// uri")],
    out: Annotated[str, typer.Option(help="the run's folder or s3://bucket/prefix")],
    model: Annotated[str, typer.Option(help="an embedded model's name, a folder or s3:// uri")] = "if-xs",
    workers: Annotated[
        int | None, typer.Option(min=1, help="engine actors per stage; default: one per GPU, else 1")
    ] = None,
    capacity: Annotated[int, typer.Option(min=1, help="model evaluations per pass")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="only the manifest's first rows")] = None,
    images: Annotated[
        Literal["objects", "inline", "both"], typer.Option(help="where the picture bytes lie")
    ] = "objects",
    unit_rows: Annotated[int | None, typer.Option(min=1, max=4096, help="rows committed together")] = None,
    stall_seconds: Annotated[float, typer.Option(min=1, help="give up after so long without a commit, at least")] = 300,
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster's address; default RAY_ADDRESS, else this machine")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and how long it takes")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="let Ray talk; show tracebacks")] = False,
) -> None:
    """Make the pictures a manifest asks for; run again, only what is missing or changed."""
    with cli.exit_codes(verbose):
        from darkroom.batch import generate

        options = generate.Options(
            manifest=manifest,
            out=out,
            model=model,
            workers=workers,
            capacity=capacity,
            unit_rows=unit_rows,
            limit=limit,
            images=images,
            stall_seconds=stall_seconds,
            address=address or os.environ.get("RAY_ADDRESS"),
            verbose=verbose,
        )
        if dry_run:
            print(generate.describe_work(*generate.dry_run(options)))
            raise typer.Exit(cli.DONE)
        outcome = generate.run(options)
        print(generate.describe(outcome, out))
        raise typer.Exit(cli.FAILED if outcome.failed else cli.DONE)


if __name__ == "__main__":
    typer.run(main)
