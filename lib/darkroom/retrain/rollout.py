"""What is made with a new champion: a few rows to see that it works, and the data set it was made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from darkroom.batch import generate
from darkroom.models.catalog import open_model
from darkroom.models.registry import SCHEME
from darkroom.ray_cluster import errors_of_ray
from darkroom.retrain.schema import Pipeline

Say = Callable[[str], None]


def smoke_step(pipeline: Pipeline, version: int, out: str, address: str | None, say: Say) -> dict[str, Any]:
    """Makes the smoke manifest as a user would, from registry://NAME. "problem": what the model cannot do.

    Raises ClusterError, Stalled, StorageError, and Ray's own: they tell nothing of the model, which stays until the
    tick goes on.
    """
    assert pipeline.smoke is not None
    model = f"{SCHEME}{pipeline.registry}/{pipeline.name}"
    result: dict[str, Any] = {"manifest": pipeline.smoke, "run": out}
    try:
        name = open_model(model).name
        if name != f"{pipeline.name}@{version}":
            return {**result, "note": f"{name} took over before {version} was tried"}
        options = generate.Options(pipeline.smoke, out, model, capacity=8, address=address)
        outcome = generate.run(options, say)
    except errors_of_ray():
        raise
    except ValueError as error:
        return {**result, "problem": f"the smoke manifest could not be made: {error}"}
    if outcome.failed or not outcome.rows:
        return {**result, "problem": f"{outcome.failed} of {outcome.rows} rows of the smoke manifest failed; see {out}"}
    return {**result, "rows": outcome.rows}


def generate_step(pipeline: Pipeline, version: int, folder: str, address: str | None, say: Say) -> dict[str, Any]:
    """Makes the pipeline's data set with one version, which its rows name as NAME@VERSION. Where the file names the
    run, it is every champion's: what the one before made is replaced, picture by picture."""
    asked = pipeline.generate
    assert asked is not None
    out = asked.out or folder
    model = f"{SCHEME}{pipeline.registry}/{pipeline.name}@{version}"
    options = generate.Options(
        asked.manifest, out, model, workers=asked.workers, capacity=asked.capacity, address=address,
        replace=asked.out is not None,
    )  # fmt: skip
    outcome = generate.run(options, say)
    return {"manifest": asked.manifest, "run": out, "rows": outcome.rows, "failed": outcome.failed}
