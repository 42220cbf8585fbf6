"""A web page to make pictures and to look at runs, models and a cluster; for this machine alone unless told not to.

    darkroom studio runs
    darkroom studio s3://bucket/runs --no-make
    darkroom studio runs --model sd15 --adapter style=models/style --control canny=hf://lllyasviel/sd-controlnet-canny
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
    model: Annotated[str, typer.Option(help="that Make makes pictures by, as for generate")] = "if-xs",
    make: Annotated[bool, typer.Option("--make/--no-make", help="whether there is a page to make pictures")] = True,
    adapter: Annotated[list[str] | None, typer.Option(help="name=URI of a LoRA adapter that Make offers")] = None,
    control: Annotated[list[str] | None, typer.Option(help="name=URI of a ControlNet likewise")] = None,
    depth: Annotated[str | None, typer.Option(help="a depth model, for ControlNets of depth")] = None,
    scorer: Annotated[str | None, typer.Option(help="clip:URI or digits: scores what Make makes")] = None,
    address: Annotated[str | None, typer.Option(help="a cluster's job API, http://HOST:8265")] = None,
    host: Annotated[str, typer.Option(help="where it listens; others than this machine need a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="the port it listens at")] = 8501,
    token: Annotated[
        str | None, typer.Option(help="who opens the page must know it", envvar="DARKROOM_STUDIO_TOKEN")
    ] = None,
) -> None:
    """Open a web page: make pictures, look at runs, models and a cluster."""
    with cli.exit_codes():
        from darkroom.models.model_names import refuse_unknown
        from darkroom.studio.server import serve
        from darkroom.studio.settings import Settings

        refuse_unknown(model)
        beside = {"adapter": tuple(adapter or ()), "control": tuple(control or ()), "depth": depth, "scorer": scorer}
        settings = Settings(runs, registry or "", address or "", model if make else "", **beside)
        serve(settings, host, port, token or "")


if __name__ == "__main__":
    cli.run(main)
