"""The console command `darkroom JOB ...`, and what every job's script shares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from darkroom import __version__
from darkroom.exits import DONE, ENVIRONMENT, FAILED, KEPT, WRONG_INPUT, exit_codes, quiet

HELP = """Pictures in bulk from diffusion models, on this machine or a Ray cluster.

A manifest says which pictures, a run is where they lie, and the same command again makes what is missing:

darkroom generate manifests/demo.yaml --out runs/demo

darkroom COMMAND --help shows a command's options and examples.
"""
# In the order in which one comes to need them; a job that is named nowhere comes last.
PANELS = {
    "Make pictures": "init generate report studio failed audit export",
    "Look after runs": "compact clean doctor embed convert",
    "Train models": "ingest train evaluate",
    "Night after night": "retrain schedule registry",
    "On a cluster": "submit jobs logs stop cluster",
}
SHARED: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

__all__ = ["DONE", "ENVIRONMENT", "FAILED", "KEPT", "WRONG_INPUT", "exit_codes", "main", "quiet", "run"]


def main() -> None:
    """Entry point of the console command."""
    command = typer.main.get_command(_app())
    if _asks_for_help():
        from darkroom.command_help import dress

        dress(command, "darkroom")
    command()


def run(job: Callable[..., None] | typer.Typer) -> None:
    """A job's script by itself: `python jobs/JOB.py ...`."""
    app = job if isinstance(job, typer.Typer) else typer.Typer(add_completion=False, **SHARED)
    if app is not job:
        app.command(epilog=_epilog(sys.modules["__main__"]))(job)
    command = typer.main.get_command(app)
    command.context_settings |= SHARED["context_settings"]
    if _asks_for_help():
        from darkroom.command_help import dress

        dress(command, Path(sys.argv[0]).stem)
    command()


def _app() -> typer.Typer:
    from darkroom.submit import commands
    from darkroom.submit.request import job_names

    app = typer.Typer(no_args_is_help=True, help=HELP, **SHARED)
    app.callback()(_options)
    panels = {name: panel for panel, names in PANELS.items() for name in names.split()}
    for name in sorted(job_names(), key=lambda name: [*panels].index(name) if name in panels else len(panels)):
        job = import_module(f"darkroom.jobs.{name}")
        more = {"name": name, "epilog": _epilog(job), "rich_help_panel": panels.get(name, "Others")}
        if hasattr(job, "app"):  # a job of several commands
            app.add_typer(job.app, **more)
        else:
            app.command(**more)(job.main)
    commands.add_to(app, "On a cluster")
    return app


def _say_version(given: bool) -> None:
    if given:
        print(f"darkroom {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="say which this is")
    ] = False,
) -> None:
    pass


def _asks_for_help() -> bool:
    return len(sys.argv) < 3 or not {"-h", "--help"}.isdisjoint(sys.argv)


def _epilog(job: Any) -> str | None:
    """Only where it is asked for, as it wants rich."""
    if not _asks_for_help():
        return None
    from darkroom.command_help import epilog

    return epilog(job.__doc__)
