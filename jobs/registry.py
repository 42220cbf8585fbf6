"""Look into a registry of models, put one in by hand, and move its champion.

    darkroom registry list --registry runs/registry
    darkroom registry show mnist-nightly --at 2026-11-21T12:00:00Z
    darkroom registry diff mnist-nightly 3 4
    darkroom registry add digits runs/flow --reason "trained by hand on the corrected labels"
    darkroom registry promote digits 1
    darkroom registry rollback mnist-nightly --reason "sevens look like ones"
    python jobs/registry.py rollback mnist-nightly --to 2 --registry s3://bucket/registry

--registry is the folder or s3:// uri of the registry; its default is the variable DARKROOM_REGISTRY, which also is what
`--model registry://NAME` looks in. Exit codes: 0 done; 2 there is no such model, version or time; 3 storage failed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from darkroom import cli

app = typer.Typer(no_args_is_help=True, help="Look into a registry of models, put one in by hand, move its champion.")
Name = Annotated[str, typer.Argument(help="the model")]
Version = Annotated[int, typer.Argument(help="its number, as `show` lists them")]
Reason = Annotated[str, typer.Option(help="why, for the history")]
Registry = Annotated[
    str | None, typer.Option(envvar="DARKROOM_REGISTRY", help="the registry's folder or s3:// uri", show_default=False)
]


def _given(registry: str | None) -> str:
    if registry is None:
        raise ValueError("which registry? Give --registry its folder or s3:// uri, or set DARKROOM_REGISTRY")
    return registry


@app.command("list")
def list_models(registry: Registry = None) -> None:
    """List the models, their champions, and how many versions there are."""
    with cli.exit_codes():
        from darkroom.models import registry_words as words

        print(words.listed(_given(registry)))


@app.command()
def show(
    name: Name,
    registry: Registry = None,
    at: Annotated[str | None, typer.Option(help="say what was live then, as 2026-11-21T12:00:00Z")] = None,
) -> None:
    """Show a model's champion and its history."""
    with cli.exit_codes():
        from darkroom.models import registry_words as words
        from darkroom.retrain.times import read_moment

        print(words.shown(words.find(_given(registry), name), None if at is None else read_moment("--at", at)))


@app.command()
def diff(name: Name, version: Version, other: Version, registry: Registry = None) -> None:
    """Show in what two versions differ: measures, gate, data, recipe, code."""
    with cli.exit_codes():
        from darkroom.models import registry_words as words

        print(words.diff(words.find(_given(registry), name), version, other))


@app.command()
def add(
    name: Name,
    source: Annotated[
        str, typer.Argument(help="the model's or adapter's folder that `darkroom train` wrote, a path or s3:// uri")
    ],
    registry: Registry = None,
    reason: Reason = "",
) -> None:
    """Copy a trained model or adapter into the registry as a new version, which is not live before it is promoted."""
    with cli.exit_codes():
        from darkroom.models import registration

        number = registration.add(_given(registry), name, source, reason)
        print(f"{source} is {name}@{number}; live it is after: darkroom registry promote {name} {number}")


@app.command()
def promote(name: Name, version: Version, registry: Registry = None, reason: Reason = "") -> None:
    """Make a version the champion by hand: no gate is asked, and the history says so."""
    with cli.exit_codes():
        from darkroom.models import registration
        from darkroom.models import registry_words as words

        words.find(_given(registry), name)
        pointer = registration.promote(_given(registry), name, version, reason)
        print(f"the champion of {name} is version {pointer.version}")


@app.command()
def rollback(
    name: Name,
    registry: Registry = None,
    to: Annotated[int | None, typer.Option(help="the version; default: the champion before")] = None,
    reason: Reason = "",
) -> None:
    """Point back to the champion before, or to another version."""
    with cli.exit_codes():
        from darkroom.models import registry_words as words

        pointer = words.find(_given(registry), name).rollback(to, reason=reason)
        print(f"the champion of {name} is version {pointer.version} again")


if __name__ == "__main__":
    cli.run(app)
