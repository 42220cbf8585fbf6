"""Look into a registry of models, and roll a champion back.

    darkroom registry list --registry runs/registry
    darkroom registry show mnist-nightly --at 2026-11-21T12:00:00Z
    darkroom registry diff mnist-nightly 3 4
    darkroom registry rollback mnist-nightly --reason "sevens look like ones"
    python jobs/registry.py rollback mnist-nightly --to 2 --registry s3://bucket/registry

--registry is the folder or s3:// uri of the registry; its default is the variable DARKROOM_REGISTRY, which also is what
`--model registry://NAME` looks in. Exit codes: 0 done; 2 there is no such model, version or time; 3 storage failed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from darkroom import cli


def main(
    action: Annotated[Literal["list", "show", "rollback", "diff"], typer.Argument()],
    name: Annotated[str | None, typer.Argument(help="the model; list takes none")] = None,
    versions: Annotated[list[int] | None, typer.Argument(help="of diff: the two versions")] = None,
    registry: Annotated[
        str | None, typer.Option(envvar="DARKROOM_REGISTRY", help="the registry's folder or s3:// uri")
    ] = None,
    at: Annotated[str | None, typer.Option(help="of show: what was live then, as 2026-11-21T12:00:00Z")] = None,
    to: Annotated[int | None, typer.Option(help="of rollback: the version; default the champion before")] = None,
    reason: Annotated[str, typer.Option(help="of rollback: why, for the history")] = "",
) -> None:
    """Look into a registry of models, and roll a champion back."""
    with cli.exit_codes():
        from darkroom.models import registry_words as words
        from darkroom.retrain.times import read_moment

        if registry is None:
            raise ValueError("which registry? Give --registry its folder or s3:// uri, or set DARKROOM_REGISTRY")
        if action == "list":
            print(words.listed(registry))
            return
        if name is None:
            raise ValueError(f"registry {action}: of which model? There are: {words.known(registry)}")
        model = words.find(registry, name)
        if action == "show":
            print(words.shown(model, None if at is None else read_moment("--at", at)))
        elif action == "rollback":
            pointer = model.rollback(to, reason=reason)
            print(f"the champion of {name} is version {pointer.version} again")
        elif len(versions or ()) != 2:
            raise ValueError(f"registry diff {name}: wanted two versions; there are: {model.versions()}")
        else:
            print(words.diff(model, *versions))


if __name__ == "__main__":
    typer.run(main)
