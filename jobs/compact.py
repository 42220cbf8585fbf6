"""Merge a run's small Parquet files, and sum its log up in one object.

    darkroom compact runs/demo
    python jobs/compact.py s3://bucket/run

A job does so at its end, up to 2 GB. Of a run that was moved or copied, the rows say where their pictures lie now.
Exit codes: 0 done; 1 some file is damaged or gone, or a row is there twice; 2 there is no run; 3 storage failed, or
another job owns the run.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")]) -> None:
    """Merge a run's small Parquet files into large ones."""
    with cli.exit_codes():
        from darkroom.runs.maintenance import compact

        text, whole = compact(run)
        print(text)
        raise typer.Exit(cli.DONE if whole else cli.FAILED)


if __name__ == "__main__":
    cli.run(main)
