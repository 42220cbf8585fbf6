"""Check a run: every manifest id has exactly one good row, and its picture is whole.

    darkroom audit runs/demo
    darkroom audit s3://bucket/run --no-pictures
    darkroom audit runs/demo --fix            lost and damaged rows are made anew by the next generate
    python jobs/audit.py s3://bucket/run

Exit codes: 0 whole; 1 something is missing, failed or damaged; 2 there is no run; 3 storage failed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(
    run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")],
    mend: Annotated[bool, typer.Option("--fix", help="have what is lost or damaged made anew by the next job")] = False,
    pictures: Annotated[bool, typer.Option(help="read every picture, and hold it against its SHA-256")] = True,
) -> None:
    """Check that a run holds exactly one good row and a whole picture for every manifest row."""
    with cli.exit_codes():
        from darkroom.runs.audit import audit, fix

        if mend:
            print(fix(run))
        result = audit(run, pictures)
        print(result.text())
        raise typer.Exit(cli.DONE if result.passed else cli.FAILED)


if __name__ == "__main__":
    cli.run(main)
