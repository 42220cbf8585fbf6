"""The console command `darkroom JOB ...`, what its help says beside the parameters (the examples of each script, groups
of options, names of values), and what every job's script shares."""

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
# Of commands with many options, by what one is after; what is named nowhere stays among "Options".
GROUPS = {
    "generate": {
        "What is made": "model adapter control depth dtype safety watermark scorer embeddings prompt count seed",
        "Which rows": "limit ids rerun replace verify max_failed_rows inputs_root dry_run check_inputs",
        "Where it lies": "out images unit_rows report",
        "Workers": (
            "workers stage1_workers stage2_workers stage3_workers capacity compile address wait_seconds stall_seconds"
        ),
    },
}
VALUES = {
    "URI": "out data source against classifier embeddings imported registry depth run uri",
    "MANIFEST": "manifest generate",
    "PIPELINE": "pipeline",
    "MODEL": "model like",
    "NAME=URI": "adapter control",
    "HOST:PORT": "address",
    "FOLDER|URI": "inputs_root",
    "KEY=VALUE": "settings default",
    "COLUMN=KEY": "column",
    "N": (
        "workers stage1_workers stage2_workers stage3_workers limit unit_rows count seed steps stride per_class "
        "samples nodes cpus_per_node cpus to priority"
    ),
    "NUMBER": "guidance",
    "NAME": "sampler submission_id env name",
    "CLIP:URI|digits": "scorer",
    "FOLDER": "folder",
    "TEXT": "reason prompt",
    "N|auto": "capacity",
    "N|N%": "max_failed_rows",
    "SECONDS": "wait_seconds stall_seconds",
    "DTYPE[,DTYPE]": "dtype",
    "TIME": "tick at",
    "FILE": "ids",
    "CLASSES": "rerun only",
    "FORMAT": "format",
    "SQL": "where",
    "NAME=PART,...": "split",
    "SIZE": "shard_size",
    "OWNER/NAME": "push",
    "LICENSE": "license",
    "CRON": "cron",
    "ZONE": "time_zone",
    "IMAGE": "image",
    "HOST": "host",
    "PORT": "port",
    "TOKEN": "token",
}
_VALUE = {name: value for value, names in VALUES.items() for name in names.split()}
SHARED: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

__all__ = [
    "DONE",
    "ENVIRONMENT",
    "FAILED",
    "KEPT",
    "WRONG_INPUT",
    "dress",
    "epilog",
    "exit_codes",
    "main",
    "quiet",
    "run",
]


def main() -> None:
    """Entry point of the console command."""
    command = typer.main.get_command(command_line())
    if _asks_for_help():
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
        dress(command, Path(sys.argv[0]).stem)
    command()


def command_line() -> typer.Typer:
    """All commands."""
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
    return epilog(job.__doc__) if _asks_for_help() else None


def epilog(docstring: str | None) -> str:
    """What a script says below its first sentence: examples line by line, and prose."""
    from rich.markup import escape  # a tenth of a second, that only help needs

    _, _, rest = (docstring or "").partition("\n\n")
    blocks = [block.splitlines() for block in rest.strip("\n").split("\n\n")]
    # Prose is wrapped anew, to the terminal's width.
    texts = [("\n" if lines[0].startswith("    ") else " ").join(map(str.strip, lines)) for lines in blocks if lines]
    return escape("\n\n".join(texts))


def dress(command: Any, name: str) -> None:
    """Groups a command's options, and names their values; of a group of commands those of each."""
    for inner, part in getattr(command, "commands", {}).items():
        dress(part, inner)
    groups = {option: group for group, options in GROUPS.get(name, {}).items() for option in options.split()}
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.metavar is None and parameter.name in _VALUE:
            parameter.metavar = _VALUE[parameter.name]
        if parameter.param_type_name == "option" and parameter.name in groups:
            parameter.rich_help_panel = groups[parameter.name]
    order = [*GROUPS.get(name, {})]
    command.params.sort(key=lambda parameter: order.index(group) if (group := groups.get(parameter.name)) else -1)
