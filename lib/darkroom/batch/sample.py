"""Rows to pictures in this process, as a notebook wants them: the model and the engine, no Ray, no run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from cachetools import LRUCache
from PIL import Image
from torch import Tensor

from darkroom.batch.capacity import ON_CPU
from darkroom.batch.latents_thread import decoded
from darkroom.batch.load_inputs import LoadOptions, load_row
from darkroom.batch.options import SMALL_ENCODER, encoder_dtype, stage_dtypes
from darkroom.batch.row_state import RowState
from darkroom.batch.sampler_worker import pasted, stage_inputs
from darkroom.batch.scoring import SMALLEST_MARKED, offers, open_model_safety
from darkroom.batch.write_results import to_pixels
from darkroom.manifest import ManifestError, open_manifest
from darkroom.manifest.inline_rows import Rows, named_by_row, write_rows
from darkroom.models.catalog import abilities, open_model
from darkroom.models.errors import ModelError
from darkroom.sampling.engine import Predictor
from darkroom.sampling.latent_inputs import to_latents
from darkroom.sampling.out_of_memory import halving, naming_out_of_memory
from darkroom.sampling.plans import Plan, Stage, condition_keys, goes_through, make_plan
from darkroom.sampling.run import walk_fitting
from darkroom.sampling.stage import Fields, at_size
from darkroom.storage import LocalStore

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

Found = TypeVar("Found")
KEPT_BYTES = 2**30  # of embeddings that stay with an opened model: Flux' take 8 MB a prompt


def sample(
    model: str | Model, rows: Rows, capacity: int | None = None, device: str | None = None, dtype: str | None = None
) -> list[Image.Image]:
    """The pictures of some rows, made in this process: no Ray, no files. In the order of the rows, RGB.

    model: of `open_model`, or its address; weights and prompt embeddings stay with an opened model, so that it is read
    once. rows: as in a manifest, one or many, of any task; `image` and `mask` may be a path, a uri, a PIL image or an
    array. A row with `best_of` wants `generate` with a scorer.
    capacity: evaluations a pass, 32 unless given; fewer are quicker for few rows, and pictures then differ by rounding.
    device: "cuda" where there is one, unless given. dtype: the model's own on a GPU, float32 on a processor.

    A row's picture is the one that `generate` makes at the same capacity, dtype and kind of device, to the byte. Raises
    ManifestError with every problem of the rows, ModelError, or StorageError, before anything is sampled.

    >>> import darkroom
    >>> row = {"task": "text_to_image", "prompt": "a red seven", "steps": 4, "seed": 1}
    >>> darkroom.sample("if-xs", row)[0].size
    (24, 24)
    """
    model = open_model(model) if isinstance(model, str) else model
    if model.stages[0].video is not None:
        raise ModelError(f"{model.name} makes videos, and `sample` gives pictures: `generate` writes them as MP4 files")
    where = _device(device)
    dtypes = stage_dtypes(model, dtype, on_gpu=where.type == "cuda")
    states = _read(model, rows)
    sampler = _Sampler(model, where, dtypes, ON_CPU if capacity is None else capacity)
    for stage in model.stages:
        sampler.develop(stage, [state for state in states if goes_through(state.row, stage, model.default_size)])
    return [Image.fromarray(pixels) for pixels in _marked(model, [to_pixels(state.picture) for state in states])]


def _device(name: str | None) -> torch.device:
    """ValueError for one that is none, or not here."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {name!r}, wanted 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {name!r}, and PyTorch sees {torch.cuda.device_count()} GPUs here")
    return device


@dataclass
class _Kept:
    """What stays in memory as long as its model does. embeddings: by encoder, dtype and prompt, on the host; those that
    were used last, up to KEPT_BYTES."""

    predictors: dict[tuple[int, torch.device, str], Predictor] = field(default_factory=dict)
    embeddings: LRUCache[tuple[str, str, str], Tensor] = field(
        default_factory=lambda: LRUCache(KEPT_BYTES, getsizeof=lambda embedding: embedding.nbytes)
    )


_KEPT: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()


def _read(model: Model, rows: Rows) -> list[RowState]:
    """The rows, checked like a manifest's, with their pictures; each is called by its number. ManifestError."""
    sizes = tuple(stage.size for stage in model.stages if not stage.enlarges_latents)
    with named_by_row(), TemporaryDirectory() as folder:
        manifest = open_manifest(write_rows(rows, LocalStore(folder)), abilities(model))
        first = model.stages[0]
        sized = (sizes, first.channels, model.default_size)
        options = LoadOptions("", folder, manifest.base, *sized, any_size=first.step > 0, depth=model.depth)
        lines = [{"id": f"row {n}", "key": "", "row": task.canonical()} for n, task in enumerate(manifest.tasks(), 1)]
        states = [load_row(RowState.of_line(0, line), options) for line in lines]
    if problems := [f"{state.id}: {state.failure.text}" for state in states if state.failure]:
        raise ManifestError(problems)
    return states


@dataclass(frozen=True)
class _Sampler:
    """A model's stages on a device."""

    model: Model
    device: torch.device
    dtypes: dict[int, str]
    capacity: int

    def develop(self, stage: Stage, states: list[RowState]) -> None:
        """Brings rows through a stage, those together that go through it."""
        if not states:
            return
        condition = self._conditions(stage, states)
        plans = [self._plan(stage, state, condition) for state in states]
        dtype = self.dtypes[stage.number]
        images = self._walk(stage, plans, dtype, self.capacity)
        overflown = [at for at, image in enumerate(images) if not image.isfinite().all()]
        if overflown and dtype != "float32":  # as `generate` does
            again = self._walk(stage, [plans[at] for at in overflown], "float32", max(1, self.capacity // 2))
            for at, image in zip(overflown, again, strict=True):
                images[at] = image
        for state, image in zip(states, images, strict=True):
            if not image.isfinite().all():
                raise ModelError(f"{state.id}: stage {stage.number} gave values that are not finite numbers")
            state.picture = pasted(image, state, stage).numpy()

    def _plan(self, stage: Stage, state: RowState, condition: Callable[[str], Tensor | Fields]) -> Plan:
        inputs = stage_inputs(state, self.model, stage, condition)
        try:
            if stage.encodes:
                latents = self._predictor(stage, self.dtypes[stage.number]).latents
                inputs = to_latents(inputs, state.row, at_size(state.row, stage), latents.encode)
            return make_plan(state.row, stage, inputs)
        except ValueError as error:
            raise ManifestError([f"{state.id}: {error}"]) from None

    def _walk(self, stage: Stage, plans: list[Plan], dtype: str, capacity: int) -> list[Tensor]:
        """Pictures, float32 [C, S, S], on the host; where the device's memory ends, by smaller passes."""
        predictor = self._predictor(stage, dtype)
        try:
            images = [finished.image for finished in walk_fitting(predictor, plans, capacity, stage.shape)]
            if stage.factor == 1:
                return images
            latents = predictor.latents
            return halving(lambda fewer: decoded(latents, images, stage.shape, fewer), latents.at_once)
        except torch.OutOfMemoryError as error:
            shortage = str(error)  # not the error, whose frames hold what they allocated
        raise ModelError(f"stage {stage.number} does not fit {self.device}, not even alone: {shortage}")

    def _predictor(self, stage: Stage, dtype: str) -> Predictor:
        kept = _KEPT.setdefault(self.model, _Kept()).predictors
        key = (stage.number, self.device, dtype)
        if key not in kept:
            kept[key] = self._fitted(lambda: self.model.predictor(stage.number, self.device, dtype))
        return kept[key]

    def _fitted(self, load: Callable[[], Found]) -> Found:
        """What `load` loads; the weights of other stages make room for it where they must."""
        try:
            with naming_out_of_memory():
                return load()
        except torch.OutOfMemoryError:
            pass
        _KEPT[self.model].predictors.clear()
        torch.cuda.empty_cache()
        try:
            with naming_out_of_memory():
                return load()
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.model.name} does not fit {self.device}: {error}") from None

    def _conditions(self, stage: Stage, states: list[RowState]) -> Callable[[str], Tensor | Fields]:
        """What each prompt or label is to the stage, all prompts of the rows encoded."""
        if not self.model.encoders:
            return self.model.condition
        name = self.model.encoder_of(stage.number)
        dtype = encoder_dtype(self.model, name, self.dtypes)
        kept = _KEPT.setdefault(self.model, _Kept()).embeddings
        asked = dict.fromkeys(key for state in states for key in condition_keys(state.row, stage))
        found = {key: kept[name, dtype, key] for key in asked if (name, dtype, key) in kept}
        if missing := [key for key in asked if key not in found]:
            small = self.model.encoder_memory(name, dtype).weights <= SMALL_ENCODER and dtype != "float16"
            where = torch.device("cpu") if small else self.device
            encoder = self._fitted(lambda: self.model.text_encoder(name, where, dtype))
            found |= {key: one.float() for key, one in zip(missing, encoder.encode(missing), strict=True)}
            kept.update({(name, dtype, key): found[key].clone() for key in missing})  # not all that came with it
        return lambda key: self.model.fields_of(stage.number, found[key])


def _marked(model: Model, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """uint8 [S, S, 3], marked where the model's folder has a mark, as `generate` does."""
    if not offers(model, "watermarker"):
        return pictures
    safety = open_model_safety(model, "cpu")
    return [_mark(safety, pixels) if len(pixels) >= SMALLEST_MARKED else pixels for pixels in pictures]


def _mark(safety: Any, pixels: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    return to_pixels(safety.watermark(image[None])[0].numpy())
