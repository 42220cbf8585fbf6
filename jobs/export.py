"""Make of a run's pictures a data set that others read: tars, a folder, Parquet; on this machine or a Ray cluster.

    darkroom export runs/demo --format webdataset --out data/demo
    darkroom export runs/demo --format huggingface --out data/hf --split train=0.9,test=0.1
    darkroom export s3://bucket/run --format parquet --out s3://bucket/set --where "text LIKE '%seven%'"
    darkroom export runs/demo --format imagefolder --out data/folder --png-text --license cc-by-4.0
    darkroom export runs/demo --format huggingface --out data/hf --push OWNER/NAME
    python jobs/export.py runs/demo --format parquet --out data/demo --shard-size 100MB

The same command again makes only the shards that are missing. Exit codes: 0 done; 2 there is no run, or an argument is
wrong; 3 storage, the cluster or the hub failed: the same command goes on. More: docs/export.md.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from darkroom import cli


def main(
    run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")],
    out: Annotated[str, typer.Option(help="a new folder or s3://bucket/prefix")],
    format: Annotated[str, typer.Option(help="webdataset, imagefolder, huggingface or parquet")],
    where: Annotated[str | None, typer.Option(help="only rows of which this condition of SQL is true")] = None,
    split: Annotated[list[str] | None, typer.Option(help="train=0.9,test=0.1; default: all is train")] = None,
    shard_size: Annotated[str, typer.Option(help="of a file, about, in memory while it is made")] = "1GB",
    png_text: Annotated[bool, typer.Option("--png-text", help="put its row into each picture's file")] = False,
    license: Annotated[str | None, typer.Option(help="of the data set, for its card: cc-by-4.0, ...")] = None,
    push: Annotated[str | None, typer.Option(help="OWNER/NAME at the Hugging Face hub; HF_TOKEN in the env")] = None,
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster's address; default RAY_ADDRESS, else this machine")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="let Ray talk; show tracebacks")] = False,
) -> None:
    """Make a data set that others read of a run's pictures."""
    with cli.exit_codes(verbose):
        from darkroom.export.job import export
        from darkroom.export.plan import ExportOptions, read_size, read_splits
        from darkroom.phases import plural, to_stderr

        options = ExportOptions(
            run=run,
            out=out,
            format=format,
            where=where,
            splits=read_splits(split or ()),
            shard_bytes=read_size(shard_size),
            png_text=png_text,
            licence=license,
            push=push,
            address=address or os.environ.get("RAY_ADDRESS"),
            verbose=verbose,
        )
        done = export(options, to_stderr)
        print(
            f"{plural(done.rows, 'row')} in {plural(len(done.receipts), 'shard')}, {done.bytes / 1e6:,.1f} MB, in {out}"
            f" ({done.written:,} of them made now); the card: {out.rstrip('/')}/README.md"
        )


if __name__ == "__main__":
    cli.run(main)
