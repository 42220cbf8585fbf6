"""What `darkroom train` does: checks everything that can be wrong, writes run.json, starts the workers."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from darkroom import __version__
from darkroom.phases import phase, phase_of_ray
from darkroom.storage import NotFound, StorageError, Store, open_store
from darkroom.storage.lease import hold
from darkroom.training.checkpoints import epochs_kept
from darkroom.training.data import read_record
from darkroom.training.recipes import find_recipe
from darkroom.training.recipes.recipe import Recipe, with_settings

LEASE_SECONDS = 30.0
PACKAGES = ("ray", "torch", "torchvision", "numpy", "pyarrow")
# Fields that may differ when a training is resumed: they say how fast and what is kept, not what is learned.
FREE = {"keep_last", "show", "bf16", "compile", "channels_last", "fused", "graphs", "layout"}


@dataclass(frozen=True)
class TrainOptions:
    """What `darkroom train` was asked. settings: "key=value", fields of the recipe; workers: "2" or "2:8"."""

    recipe: str
    data: str
    out: str
    settings: tuple[str, ...] = ()
    workers: str = "1"
    resume: bool = False
    address: str | None = None
    verbose: bool = False


def train(options: TrainOptions, say: Callable[[str], None]) -> None:
    """The whole job. Raises ValueError for the user's part, FloatingPointError for a training that diverged, Held where
    another trains into --out, StorageError and ClusterError for the environment."""
    from darkroom.ray_cluster import connect
    from darkroom.training.distributed import Workers, train_distributed

    # Absolute, as workers stand in other folders.
    options = replace(options, data=open_store(options.data).root, out=open_store(options.out).root)
    workers = Workers.parse(options.workers)
    recipe, store = with_settings(find_recipe(options.recipe)(), options.settings).settled(), open_store(options.out)
    record = read_record(options.data, recipe.reads)
    recipe.check(record)
    if _finished(recipe, record, options, store):
        say(f"the training in {options.out} is finished already")
        return
    with hold(store, f"the training of {recipe.name} into {options.out}", LEASE_SECONDS):
        store.write("run.json", json.dumps(_run_record(recipe, record, options), indent=1).encode())
        phase_of_ray(say, options.address)
        connect(options.address, options.verbose)
        phase(say, "starting the workers")
        train_distributed(recipe, options.data, options.out, workers, say)


def kept(out: str) -> str:
    """What an interrupted training left behind, and how it goes on."""
    with suppress(StorageError):
        if epochs := epochs_kept(open_store(out)):
            return f"the checkpoint of epoch {epochs[-1]} is kept; the same command with --resume goes on from there"
        return "no epoch was finished; the same command begins anew"
    return "checkpoints are kept; the same command with --resume goes on from the last"


def _finished(recipe: Recipe, record: dict[str, Any], options: TrainOptions, store: Store) -> bool:
    """Whether there is nothing left to do. ValueError where --out holds what this training must not touch."""
    before = _read_run(store)
    kept = epochs_kept(store)
    if before is None:
        if store.exists("config.json") or kept:
            raise ValueError(f"{options.out} holds a model that is not of a training run; choose another --out")
        return False
    if not options.resume and kept:
        raise ValueError(
            f"{options.out} holds a training of {before['recipe']['name']} that was begun: go on with --resume, or "
            "choose another --out"
        )
    finished = store.exists("config.json")
    if kept or finished:  # some recipes keep no checkpoints
        _refuse_another(before, recipe, record, options)
    return finished


def _refuse_another(before: dict[str, Any], recipe: Recipe, record: dict[str, Any], options: TrainOptions) -> None:
    now = json.loads(json.dumps(recipe.record()))
    differ = sorted(key for key in now if key not in FREE and now[key] != before["recipe"].get(key))
    if differ:
        told = ", ".join(f"{key} was {before['recipe'].get(key)}, now {now[key]}" for key in differ)
        raise ValueError(f"{options.out} holds a training of another recipe ({told}); choose another --out")
    digest = record["splits"]["train"]["digest"]
    if digest != before["data"]["train"]:
        raise ValueError(f"{options.data} is not the data that {options.out} was trained on; choose another --out")


def _read_run(store: Store) -> dict[str, Any] | None:
    try:
        run = json.loads(store.read("run.json"))
    except NotFound:
        return None
    if run.get("kind") != "training":
        raise ValueError(f"{store.root} holds a run of `darkroom generate`; choose another --out")
    return run


def _run_record(recipe: Recipe, record: dict[str, Any], options: TrainOptions) -> dict[str, Any]:
    return {
        "kind": "training",
        "created_at": datetime.now(UTC).isoformat(),
        "recipe": recipe.record(),
        "data": {"uri": options.data, "name": record["name"], "train": record["splits"]["train"]["digest"]},
        "workers": options.workers,
        "code": __version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
