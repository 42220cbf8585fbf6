"""A folder to begin with: a manifest, a list of prompts, a picture and a mask, and the commands for them.

    darkroom init mine
    cd mine && darkroom generate first.yaml --out runs/first

Nothing that is there is overwritten. Exit codes: 0 done; 2 files of these names are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from darkroom import cli


def main(
    folder: Annotated[Path, typer.Argument(help="the folder, which may be there")] = Path("."),
) -> None:
    """Write a folder to begin with: a manifest, prompts, a picture and a mask."""
    with cli.exit_codes():
        from darkroom.starter import write_starter

        files = write_starter(folder)
        typer.echo(f"wrote {', '.join(files)} into {folder}; next:")
        if folder != Path("."):
            typer.echo(f"  cd {folder}")
        typer.echo("  darkroom generate first.yaml --out runs/first")


if __name__ == "__main__":
    cli.run(main)
