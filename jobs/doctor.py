"""Try out what a place to store things can do, and say what darkroom does about it.

    darkroom doctor runs/demo
    darkroom doctor s3://bucket/prefix
    python jobs/doctor.py s3://bucket/prefix

Writes a few small objects there, and removes them. Exit codes: 0 fit; 1 something is BAD, so that jobs cannot work
there; 2 the uri is wrong; 3 it cannot be reached or not be written to.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(uri: Annotated[str, typer.Argument(help="a folder, or s3://bucket/prefix")]) -> None:
    """Try out what a folder or bucket can do, and say what darkroom does about it."""
    with cli.exit_codes():
        from darkroom.storage.doctor import examine
        from darkroom.storage.findings import BAD

        levels = []
        for finding in examine(uri):
            print(finding, flush=True)
            levels.append(finding.level)
        raise typer.Exit(cli.FAILED if BAD in levels else cli.DONE)


if __name__ == "__main__":
    cli.run(main)
