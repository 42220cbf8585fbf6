"""What is made with a new champion: a few rows to see that it works, and the data set it was made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from darkroom.batch import generate
from darkroom.models.catalog import open_model
from darkroom.models.network import read_config
from darkroom.models.registry import SCHEME, resolve
from darkroom.ray_cluster import errors_of_ray
from darkroom.retrain.schema import Pipeline
from darkroom.storage import open_store
from darkroom.training.recipes.lora import Lora

Say = Callable[[str], None]


def smoke_step(pipeline: Pipeline, version: int, out: str, address: str | None, say: Say) -> dict[str, Any]:
    """Makes the smoke manifest as a user would, from registry://NAME. "problem": what the model cannot do.

    Raises ClusterError, Stalled, StorageError, and Ray's own: they tell nothing of the model, which stays until the
    tick goes on.
    """
    assert pipeline.smoke is not None
    address_of = f"{SCHEME}{pipeline.registry}/{pipeline.name}"
    result: dict[str, Any] = {"manifest": pipeline.smoke, "run": out}
    try:
        name = _name(pipeline, address_of)
        if name != f"{pipeline.name}@{version}":
            return {**result, "note": f"{name} took over before {version} was tried"}
        options = generate.Options(pipeline.smoke, out, capacity=8, address=address, **_asked(pipeline, address_of))
        outcome = generate.run(options, say)
    except errors_of_ray():
        raise
    except ValueError as error:
        return {**result, "problem": f"the smoke manifest could not be made: {error}"}
    if outcome.failed or not outcome.rows:
        return {**result, "problem": f"{outcome.failed} of {outcome.rows} rows of the smoke manifest failed; see {out}"}
    return {**result, "rows": outcome.rows}


def _asked(pipeline: Pipeline, version: str) -> dict[str, Any]:
    """What a run is asked by: the version as its model; or, of an adapter, its base, and the adapter by the pipeline's
    name."""
    recipe = pipeline.recipe()
    if isinstance(recipe, Lora):
        return {"model": recipe.model, "adapter": (f"{pipeline.name}={version}",)}
    return {"model": version}


def _name(pipeline: Pipeline, version: str) -> str:
    """What the version is called, NAME@NUMBER."""
    if isinstance(pipeline.recipe(), Lora):
        return read_config(open_store(resolve(version)))["name"]
    return open_model(version).name


def generate_step(pipeline: Pipeline, version: int, folder: str, address: str | None, say: Say) -> dict[str, Any]:
    """Makes the pipeline's data set with one version, which its rows name as NAME@VERSION. Where the file names the
    run, it is every champion's: what the one before made is replaced, picture by picture."""
    asked = pipeline.generate
    assert asked is not None
    out = asked.out or folder
    model = _asked(pipeline, f"{SCHEME}{pipeline.registry}/{pipeline.name}@{version}")
    options = generate.Options(
        asked.manifest, out, **model, workers=asked.workers, capacity=asked.capacity, address=address,
        replace=asked.out is not None,
    )  # fmt: skip
    outcome = generate.run(options, say)
    return {"manifest": asked.manifest, "run": out, "rows": outcome.rows, "failed": outcome.failed}
