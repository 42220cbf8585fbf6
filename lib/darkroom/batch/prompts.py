"""Prompts made ready: encoded where they are missing, or brought along. `generate` and `darkroom embed` share this."""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from darkroom.batch import pipeline, placement
from darkroom.batch.options import DTYPES, JOINED_SECONDS, SMALL_ENCODER, encoder_dtype, stage_dtypes
from darkroom.batch.pipeline import Listener
from darkroom.batch.placement import Pool
from darkroom.batch.planned_rows import Maker, ReadRows
from darkroom.batch.planning import cut
from darkroom.batch.progress import PROMPTS, Watchdog
from darkroom.batch.stages import Unencoded
from darkroom.models.catalog import abilities, address, open_model
from darkroom.models.embeddings import EmbeddingStore
from darkroom.models.errors import ModelError
from darkroom.phases import Say, phase, phase_of_ray, plural, to_stderr
from darkroom.ray_cluster import connect, resources
from darkroom.ray_cluster.resources import ENCODERS, Wanted, find_room
from darkroom.runs import Log
from darkroom.storage import NotFound, open_store, read_uri

if TYPE_CHECKING:
    from darkroom.models.catalog import Model


LISTED = 10
FEW_PROMPTS = 2_000


class NoPrompts(ValueError):
    """The file holds no embeddings that could be used."""


def find_stores(model: Model, names: Iterable[str], dtypes: dict[int, str], root: str) -> dict[str, EmbeddingStore]:
    """Where the embeddings of each text encoder lie, as the stages of these dtypes take them."""
    return {name: EmbeddingStore(root, model.encoder_key(name, encoder_dtype(model, name, dtypes))) for name in names}


def find_missing(
    model: Model, prompts: Mapping[str, Collection[str]], dtypes: dict[int, str], stores: Mapping[str, EmbeddingStore]
) -> list[Unencoded]:
    """The prompts, by encoder, that its store lacks; an encoder that nothing is missing of is not among them."""
    found = [
        Unencoded(name, encoder_dtype(model, name, dtypes), stores[name], stores[name].missing(asked))
        for name, asked in prompts.items()
    ]
    return [one for one in found if one.prompts]


def is_small(model: Model, one: Unencoded) -> bool:
    """Whether this process encodes them sooner than a worker of their own would have started."""
    weights = model.encoder_memory(one.encoder, one.dtype).weights
    # A processor does not compute in float16.
    return weights <= SMALL_ENCODER and len(one.prompts) <= FEW_PROMPTS and one.dtype != "float16"


def encode(
    model: Model,
    where: str,
    missing: list[Unencoded],
    pool: Pool | None,
    watchdog: Watchdog,
    listener: Listener,
) -> None:
    """Encodes them: in this process where that is quick, else by actors on the pool.

    where: what a worker opens to get the model. pool: None for as many as there is room for.
    ModelError where an encoder cannot be had, naming what is missing.
    """
    here = [one for one in missing if is_small(model, one)]
    try:
        for one in here:
            encoder = model.text_encoder(one.encoder, torch.device("cpu"), one.dtype)
            one.store.put(one.prompts, encoder.encode(one.prompts))
        rest = [one for one in missing if one not in here]
        pipeline.embed(rest, where, model.revision, pool, watchdog, listener)
    except ModelError as error:
        raise ModelError("\n".join([str(error), *_unencoded(missing)])) from error


def preload(model: Model) -> None:
    """Imports what encoding in this process wants, for a thread that has nothing better to do while Ray starts."""
    if model.encoders:
        from darkroom.models.texts import import_models

        import_models()


def import_prompts(uri: str, model: Model, root: str, dtype: str | None) -> int:
    """Puts embeddings made elsewhere, {prompt: [1, length, width] or [length, width]} as `torch.save` writes it, where
    a run looks for those of stages I and II; how many.

    They are kept in that dtype, or, if none is given, in each that a stage may run in, so that they are found on any
    device. NoPrompts for a file that is none such; nothing of it is stored then.
    """
    if not model.encoders:
        raise NoPrompts(f"the model {model.name!r} reads no text, so there is nothing to import")
    name = model.encoders[0]
    found = _check(_load(uri), uri, model.embedding_shape(name))
    chosen = [dtype] if dtype else list(DTYPES)
    for one in chosen:
        store = EmbeddingStore(root, model.encoder_key(name, one))
        prompts = store.missing(found)
        for at in range(0, len(prompts), pipeline.PROMPTS_PER_TASK):
            part = prompts[at : at + pipeline.PROMPTS_PER_TASK]
            store.put(part, torch.stack([found[prompt] for prompt in part]).to(getattr(torch, one)))
    return len(found)


def _load(uri: str) -> Any:
    """weights_only: a file that somebody sends is data, never a program."""
    try:
        return torch.load(io.BytesIO(read_uri(uri)), map_location="cpu", weights_only=True)
    except NotFound:
        raise NoPrompts(f"there is no file {uri}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise NoPrompts(
            f"{uri} is not a dictionary of tensors as torch.save writes it, and nothing else is loaded: {first[:200]}"
        ) from None


def _check(found: Any, uri: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    if not isinstance(found, dict) or not found:
        given = "an empty dictionary" if found == {} else f"a {type(found).__name__}"
        raise NoPrompts(f"{uri} holds {given}, wanted a dictionary {{prompt: embedding}}")
    checked: dict[str, torch.Tensor] = {}
    problems: list[str] = []
    for prompt, value in found.items():
        problem = _problem(prompt, value, shape)
        if problem:
            problems.append(problem)
        else:
            checked[prompt] = value.reshape(shape)
    if problems:
        more = [f"and {len(problems) - LISTED:,} more"] if len(problems) > LISTED else []
        raise NoPrompts("\n  ".join([f"{uri} cannot be imported:", *problems[:LISTED], *more]))
    return checked


def _problem(prompt: Any, value: Any, shape: tuple[int, int]) -> str:
    wanted = f"{list(shape)} or {[1, *shape]}"
    if not isinstance(prompt, str):
        return f"the key {prompt!r} is a {type(prompt).__name__}, wanted the prompt's text"
    if not isinstance(value, torch.Tensor):
        return f"{prompt!r}: a {type(value).__name__}, wanted a tensor {wanted}"
    if tuple(value.shape) not in (shape, (1, *shape)):
        return f"{prompt!r}: a tensor {list(value.shape)}, wanted {wanted}"
    if not value.is_floating_point():
        return f"{prompt!r}: a tensor of {value.dtype}, wanted floating point numbers"
    if not torch.isfinite(value).all():
        return f"{prompt!r}: holds values that are not finite numbers"
    return ""


def _unencoded(missing: list[Unencoded]) -> Iterator[str]:
    for one in missing:
        left = one.store.missing(one.prompts)
        if left:
            shown = ", ".join(map(repr, left[:LISTED])) + (f" and {len(left) - LISTED:,} more" if left[LISTED:] else "")
            lack = plural(len(left), "prompt has", "prompts have")
            yield f"{lack} no embedding by {one.encoder} in {one.store.uri}: {shown}"
    yield "Encode them where the text encoder is, and bring them by `darkroom embed --import FILE`."


def watchdog(stall_seconds: float) -> Watchdog:
    return Watchdog(stall_seconds, 2 * stall_seconds)


@dataclass(frozen=True)
class EmbedOptions:
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


def embed(options: EmbedOptions, say: Say = to_stderr) -> int:
    """How many prompts have embeddings now that were asked for. Raises ValueError for the user's part; StorageError,
    ClusterError, Stalled."""
    if (options.manifest is None) == (options.imported is None):
        raise ValueError("wanted either a MANIFEST whose prompts are to be encoded, or --import FILE")
    model, root = open_model(options.model), open_store(options.out).root
    dtypes = stage_dtypes(model, options.dtype, on_gpu=False)
    if options.imported is not None:
        dtype = None if options.dtype is None else encoder_dtype(model, model.encoders[0], dtypes)
        return import_prompts(open_file(options.imported), model, root, dtype)
    asked = _asked(options.manifest or "", model, say)
    if asked:
        _encode(options, model, asked, root, say)
    return len({prompt for name in asked for prompt in asked[name]})


def _asked(manifest: str, model: Model, say: Say) -> dict[str, dict[str, bool]]:
    """What the rows ask, by the text encoder that reads it. ManifestError."""
    maker = Maker.of(model)
    rows = ReadRows(manifest, replace(abilities(model, scorer=True), adapters=None, nets=None), maker)
    for warning in rows.manifest.warnings:
        say(warning)
    return cut(rows, Log(), maker, None, None).prompts


def _encode(options: EmbedOptions, model: Model, asked: Mapping[str, Collection[str]], root: str, say: Say) -> None:
    phase_of_ray(say, options.address)
    connect(options.address, options.verbose)
    room = find_room([Wanted(ENCODERS)], JOINED_SECONDS if options.address else 0.0, say)
    asked_hardware = resources.ask_hardware()
    dtypes = stage_dtypes(model, options.dtype, on_gpu=room.gpus > 0)
    stores = find_stores(model, asked, dtypes, root)
    missing = find_missing(model, asked, dtypes, stores)
    needs = [placement.encoder_need(model, one.encoder, dtypes) for one in missing if not is_small(model, one)]
    hardware = resources.read_hardware(asked_hardware, say)
    placement.refuse_dtypes(needs, {}, hardware, options.dtype)
    placement.check(needs, {}, hardware)
    for one in missing:
        phase(say, f"encoding {plural(len(one.prompts), 'prompt')} by {one.encoder}")
    listener = Listener(
        pipeline.start_counter([PROMPTS]),
        lambda news: [phase(say, line, ago) for ago, line in news.lines],
        say=partial(phase, say),
    )
    where, dog = address(options.model, model), watchdog(options.stall_seconds)
    encode(model, where, missing, None, dog, listener)


def open_file(uri: str) -> str:
    """A path or uri as `read_uri` takes it."""
    folder, _, name = uri.rpartition("/")
    return open_store(folder or ".").uri(name)
