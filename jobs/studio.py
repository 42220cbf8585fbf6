"""A web page to look at runs, models and a cluster; for this machine alone unless told not to.

    darkroom studio runs
    darkroom studio s3://bucket/runs
    darkroom studio runs --registry s3://bucket/registry --address http://ray-head:8265
    DARKROOM_STUDIO_TOKEN=... darkroom studio runs --host 0.0.0.0 --port 8080

Wants the extra: pip install 'darkroom[studio]'. Exit codes: 2 an option is wrong or the extra is not installed;
3 storage failed; 130 Ctrl-C.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli


def main(
    runs: Annotated[str, typer.Argument(metavar="RUNS", help="a folder or s3:// uri of runs, or one run")],
    registry: Annotated[str | None, typer.Option(help="a registry of models, to be looked at")] = None,
    address: Annotated[str | None, typer.Option(help="a cluster's job API, http://HOST:8265")] = None,
    host: Annotated[str, typer.Option(help="where it listens; others than this machine need a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="the port it listens at")] = 8501,
    token: Annotated[
        str | None, typer.Option(help="who opens the page must know it", envvar="DARKROOM_STUDIO_TOKEN")
    ] = None,
) -> None:
    """Open a web page: look at runs, models and a cluster."""
    with cli.exit_codes():
        from darkroom.studio.server import serve
        from darkroom.studio.settings import Settings

        serve(Settings(runs, registry=registry or "", address=address or ""), host, port, token or "")


if __name__ == "__main__":
    cli.run(main)
