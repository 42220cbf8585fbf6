"""Remove what nothing in a run refers to: pictures of rows that were made anew or left, and leftovers of dead jobs.

    darkroom clean runs/demo          says what would go
    darkroom clean runs/demo --yes    removes it
    python jobs/clean.py s3://bucket/run --yes

Exit codes: 0 done; 2 there is no run; 3 storage failed, or another job owns the run.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(
    run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")],
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without, only say what would go")] = False,
) -> None:
    """Remove what nothing in a run refers to, after saying what."""
    with cli.exit_codes():
        from darkroom.runs.maintenance import clean

        print(clean(run, remove=yes))


if __name__ == "__main__":
    cli.run(main)
