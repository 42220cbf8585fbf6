"""The failed rows of a run as a manifest: to look at, to edit, to try again.

    darkroom failed runs/demo                                     as JSON lines, with why each failed on stderr
    darkroom failed runs/demo --only input --out failed.jsonl
    darkroom generate manifests/demo.yaml --out runs/demo --ids failed.jsonl     these rows once more, and no others
    darkroom generate failed.jsonl --out runs/mended                             edited, as a run of their own
    python jobs/failed.py s3://bucket/run --out failed.jsonl

Exit codes: 0 none failed; 1 some did; 2 there is no run; 3 storage failed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(
    run: Annotated[str, typer.Argument(help="the run's folder or s3:// uri")],
    out: Annotated[str | None, typer.Option(help="the file to write, a path or s3:// uri; default: stdout")] = None,
    only: Annotated[str | None, typer.Option(help="classes of errors, joined by commas: input,numeric")] = None,
) -> None:
    """Write the failed rows of a run as a manifest."""
    with cli.exit_codes():
        import json

        from darkroom.batch.input_files import far_pictures
        from darkroom.runs.failures import describe_failed, failed_rows
        from darkroom.storage import write_uri

        rows = failed_rows(run, only, out)
        lines = "".join(json.dumps(failed.row, ensure_ascii=False) + "\n" for failed in rows)
        if out is None:
            print(lines, end="")
        else:
            write_uri(out, lines.encode())
        typer.echo(describe_failed(rows), err=out is None)
        if out is not None and (far := far_pictures([failed.row for failed in rows], out)):
            typer.echo(f"as a manifest, {out}: {far}")
        raise typer.Exit(cli.FAILED if rows else cli.DONE)


if __name__ == "__main__":
    cli.run(main)
