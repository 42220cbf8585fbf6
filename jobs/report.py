"""Draw a run's pictures: contact sheets and an index.html that opens from disk, in RUN/report.

    darkroom report runs/demo
    python jobs/report.py s3://bucket/run

Exit codes: 0 done; 3 storage failed or there is no run.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")]) -> None:
    """Draw a run's contact sheets and its index.html."""
    with cli.exit_codes():
        from darkroom.report.page import write_report

        print(write_report(run))


if __name__ == "__main__":
    typer.run(main)
