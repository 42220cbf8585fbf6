"""Merge a run's small Parquet files, and sum its log up in one object.

    darkroom compact runs/demo
    python jobs/compact.py s3://bucket/run

A job does so at its end, up to 2 GB. Exit codes: 0 done; 3 storage failed, another job owns the run, or there is none.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")]) -> None:
    """Merge a run's small Parquet files into large ones."""
    with cli.exit_codes():
        from darkroom.runs.maintenance import compact

        print(compact(run))


if __name__ == "__main__":
    typer.run(main)
