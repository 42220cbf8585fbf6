"""The console command `darkroom JOB ...`, and what every job's script shares."""

from __future__ import annotations

from importlib import import_module

import typer

from darkroom.exits import DONE, ENVIRONMENT, FAILED, KEPT, WRONG_INPUT, exit_codes, quiet

HELP = "Make, train and keep diffusion images in bulk, on this machine or a Ray cluster."

__all__ = ["DONE", "ENVIRONMENT", "FAILED", "KEPT", "WRONG_INPUT", "exit_codes", "main", "quiet"]


def main() -> None:
    """Entry point of the console command."""
    command_line()()


def command_line() -> typer.Typer:
    """All commands."""
    from darkroom.submit import commands
    from darkroom.submit.request import job_names

    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
    for name in job_names():
        job = import_module(f"darkroom.jobs.{name}")
        if hasattr(job, "app"):  # a job of several commands
            app.add_typer(job.app, name=name)
        else:
            app.command(name)(job.main)
    commands.add_to(app)
    return app
