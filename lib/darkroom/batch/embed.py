"""The job that fills a store of prompt embeddings ahead of time: by the text encoders, or from a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from darkroom.batch import options as option
from darkroom.batch import pipeline, placement, prompts
from darkroom.batch.generate import abilities
from darkroom.batch.options import JOINED_SECONDS
from darkroom.batch.pipeline import Listener
from darkroom.batch.progress import PROMPTS
from darkroom.manifest import open_manifest
from darkroom.models.catalog import address, open_model
from darkroom.phases import Say, phase, phase_of_ray, to_stderr
from darkroom.ray_cluster import connect, resources
from darkroom.ray_cluster.resources import ENCODERS, Wanted, find_room
from darkroom.sampling.plans import condition_keys, goes_through
from darkroom.storage import open_store

if TYPE_CHECKING:
    from darkroom.models.catalog import Model


@dataclass(frozen=True)
class Options:
    """What `darkroom embed` was asked: one of manifest and imported. dtype: as for `generate`, whose stages look for
    what their dtype asks for; None: the model's own on GPUs, float32 on processors, and all of them of an import."""

    out: str
    model: str
    manifest: str | None = None
    imported: str | None = None
    dtype: str | None = None
    stall_seconds: float = 300.0
    address: str | None = None
    verbose: bool = False


def run(options: Options, say: Say = to_stderr) -> int:
    """How many prompts have embeddings now that were asked for. Raises ValueError for the user's part; StorageError,
    ClusterError, Stalled."""
    if (options.manifest is None) == (options.imported is None):
        raise ValueError("wanted either a MANIFEST whose prompts are to be encoded, or --import FILE")
    model, root = open_model(options.model), open_store(options.out).root
    dtypes = option.stage_dtypes(model, options.dtype, on_gpu=False)
    if options.imported is not None:
        dtype = None if options.dtype is None else option.encoder_dtype(model, model.encoders[0], dtypes)
        return prompts.import_prompts(open_file(options.imported), model, root, dtype)
    asked = prompts_of(options.manifest or "", model, say)
    if asked:
        _encode(options, model, asked, root, say)
    return len({prompt for name in asked for prompt in asked[name]})


def prompts_of(manifest: str, model: Model, say: Say) -> dict[str, dict[str, None]]:
    """What the rows ask, by the text encoder that reads it."""
    opened = open_manifest(manifest, abilities(model, scorer=True))
    for warning in opened.warnings:
        say(warning)
    asked: dict[str, dict[str, None]] = {}
    for task in opened.tasks() if model.encoders else ():
        row = task.canonical()
        for stage in model.stages:
            if goes_through(row, stage, model.default_size) and (keys := condition_keys(row, stage)):
                asked.setdefault(model.encoder_of(stage.number), {}).update(dict.fromkeys(keys))
    return asked


def _encode(options: Options, model: Model, asked: dict[str, dict[str, None]], root: str, say: Say) -> None:
    phase_of_ray(say, options.address)
    connect(options.address, options.verbose)
    room = find_room([Wanted(ENCODERS)], JOINED_SECONDS if options.address else 0.0, say)
    dtypes = option.stage_dtypes(model, options.dtype, on_gpu=room.gpus > 0)
    stores = prompts.find_stores(model, asked, dtypes, root)
    missing = prompts.find_missing(model, asked, dtypes, stores)
    placement.check(
        [placement.encoder_need(model, one.encoder, dtypes) for one in missing], {}, resources.read_hardware(say)
    )
    for one in missing:
        phase(say, f"encoding {len(one.prompts):,} prompts by {one.encoder}")
    listener = Listener(
        pipeline.start_counter([PROMPTS]),
        lambda news: [phase(say, line, ago) for ago, line in news.lines],
        say=partial(phase, say),
    )
    where, dog = address(options.model, model), prompts.watchdog(options.stall_seconds)
    prompts.encode(model, where, missing, None, dog, listener)


def open_file(uri: str) -> str:
    """A path or uri as `read_uri` takes it."""
    folder, _, name = uri.rpartition("/")
    return open_store(folder or ".").uri(name)
