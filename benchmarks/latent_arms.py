"""Three ways to make the same rows by one Stable Diffusion model, and what each does in how many seconds.

A  diffusers' pipelines, a row at a time     B  the same in static batches of rows with equal scalars     C  the engine
"""

from __future__ import annotations

import copy
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from PIL import Image
from torch import Tensor

from darkroom.batch.latents_thread import share_processors
from darkroom.models.adapter_files import Adapter
from darkroom.models.adapters import adapter_fields
from darkroom.models.latents import Latents
from darkroom.models.predictors import UNetPredictor
from darkroom.models.stages import process_from_scheduler
from darkroom.sampling import noise
from darkroom.sampling.buckets import Buckets
from darkroom.sampling.engine import Failed, Predictor
from darkroom.sampling.latent_inputs import to_latents
from darkroom.sampling.plans import Plan, condition_keys, make_plan
from darkroom.sampling.stage import CONDITION, POOLED, Fields, Inputs, Stage

Row = dict[str, Any]
BATCH = 32
ARMS = {"A": "diffusers, a row at a time", "B": "diffusers, static batches", "C": "engine"}
TASKS = ("text_to_image", "image_to_image", "inpaint")
OURS = (
    "resample",
    "clip_skip",
    "guidance_interval",
    "adapters",
    "control",
)  # that pipelines lack, or have for no batch
OWN = ("prompt", "negative_prompt", "seed", "image", "mask")  # that rows of a static batch may differ in
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}


@dataclass
class Made:
    """Pictures by row, float32 [3, H, W] in -1..1 on the host. decoding: seconds of it, wherever they passed."""

    images: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    evaluations: int = 0
    decoding: float = 0.0


def comparable(rows: Iterable[Row]) -> list[Row]:
    """Rows that diffusers' pipelines make too."""
    return [row for row in rows if row["task"] in TASKS and not any(row.get(name) for name in OURS)]


def repeated(rows: Sequence[Row], count: int) -> list[Row]:
    """So many rows, from the first on, again and again with other seeds."""
    found = []
    for number in range(count):
        row = rows[number % len(rows)]
        found.append({**row, "id": f"row {number}", "seed": row["seed"] + 1000 * (number // len(rows))})
    return found


class Studio:
    """A pipeline of diffusers, and the same networks as the engine asks them. folder: of the rows' pictures."""

    def __init__(self, pipe: Any, folder: Path, adapters: Sequence[Adapter] = ()) -> None:
        self.pipe, self.folder, self.device = pipe, folder, pipe.unet.device
        self.config = scheduler_config(pipe.scheduler)
        self.process = process_from_scheduler(self.config)
        factor, unet = pipe.vae_scale_factor, pipe.unet.config
        self.sized = unet.addition_embed_type == "text_time"
        size = factor * unet.sample_size
        self.stage = Stage(1, size, unet.out_channels, self.process, factor=factor, step=factor, sized=self.sized)
        whole = pipe.vae.dtype == torch.float32
        latents = Latents(pipe.vae, None if whole else lambda _: pipe.vae)  # random weights overflow nothing
        unet = copy.deepcopy(pipe.unet) if adapters else pipe.unet  # which adapters hang on
        self.predictor: Predictor = UNetPredictor(unet, self.process, self.device, latents, adapters=adapters)
        self.adapters = [adapter.name for adapter in adapters]
        self._pictures: dict[str, Image.Image] = {}

    def picture(self, name: str, mode: str = "RGB") -> Image.Image:
        """As large as the model makes them."""
        if name not in self._pictures:
            how = Image.Resampling.NEAREST if mode == "L" else Image.Resampling.BICUBIC
            image = Image.open(self.folder / name).convert(mode)
            self._pictures[name] = image.resize((self.stage.size, self.stage.size), how)
        return self._pictures[name]

    def embedded(self, prompts: Sequence[str]) -> dict[str, Fields]:
        """What the UNet is told for each prompt, by the pipeline's own encoders."""
        found: dict[str, Fields] = {}
        for some in parts(list(dict.fromkeys(prompts)), BATCH):
            told = self.pipe.encode_prompt(
                prompt=some, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            fields = {CONDITION: told[0].float().cpu()} | ({POOLED: told[2].float().cpu()} if self.sized else {})
            found |= {prompt: {name: of[n] for name, of in fields.items()} for n, prompt in enumerate(some)}
        return found

    def plan(self, row: Row, conditions: dict[str, Fields]) -> Plan:
        own = {use["adapter"]: use["scale"] for use in row.get("adapters", ())}
        inputs = Inputs(
            {key: conditions[key] for key in condition_keys(row, self.stage)},
            image=_tensor(self.picture(row["image"])) * 2 - 1 if "image" in row else None,
            mask=_tensor(self.picture(row["mask"], "L")) >= 0.5 if "mask" in row else None,
            fields=adapter_fields(own, self.adapters) if self.adapters else {},
        )
        return make_plan(row, self.stage, to_latents(inputs, row, self.stage, self.predictor.latents.encode))


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """As its file would say it: what it does not say is each sampler's own, here and in diffusers' `from_config`."""
    said = dict(scheduler.config)
    unsaid = said.pop("_use_default_values", ())
    return {"clip_sample": False, "steps_offset": 1} | {k: v for k, v in said.items() if k not in unsaid}


def _tensor(image: Image.Image) -> Tensor:
    """[C, H, W] in 0..1."""
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.view(image.height, image.width, -1).permute(2, 0, 1).float() / 255


class Pipelines:
    """Arms A and B."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        kinds = {"image_to_image": AutoPipelineForImage2Image, "inpaint": AutoPipelineForInpainting}
        self.by_task = {"text_to_image": studio.pipe} | {
            task: kind.from_pipe(studio.pipe) for task, kind in kinds.items()
        }
        for pipe in self.by_task.values():
            pipe.set_progress_bar_config(disable=True)

    def run(self, rows: Sequence[Row], batch: int) -> Made:
        made = Made()
        began = now(self.studio.device)
        for group in groups(rows, batch):
            images = self._call(group)
            made.images |= {row["id"]: image for row, image in zip(group, images, strict=True)}
        made.seconds = now(self.studio.device) - began
        return made

    def _call(self, group: Sequence[Row]) -> Tensor:
        """float32 [N, 3, H, W] on the host of rows with equal scalars."""
        first, studio = group[0], self.studio
        pipe = self.by_task[first["task"]]
        pipe.scheduler = self._scheduler(first)
        asked = {
            "prompt": [row["prompt"] for row in group],
            "negative_prompt": [row.get("negative_prompt") or "" for row in group],
            "guidance_scale": first["guidance"],
            "num_inference_steps": first["steps"],
            "generator": [torch.Generator(studio.device).manual_seed(row["seed"]) for row in group],
            "output_type": "pt",
        }
        if first["task"] == "text_to_image":
            asked["guidance_rescale"] = first.get("guidance_rescale", 0.0)
            shape = studio.stage.shape
            starts = [torch.from_numpy(noise.normal(row["seed"], 1, noise.START, 0, shape)) for row in group]
            asked["latents"] = torch.stack(starts).to(studio.device, pipe.unet.dtype)
        else:
            asked["image"] = [studio.picture(row["image"]) for row in group]
            asked["strength"] = first.get("strength", 1.0)
        if first["task"] == "inpaint":
            asked["mask_image"] = [studio.picture(row["mask"], "L") for row in group]
            asked |= {"height": studio.stage.size, "width": studio.stage.size}
        return pipe(**asked).images.float().cpu() * 2 - 1

    def _scheduler(self, row: Row) -> Any:
        name, own = SCHEDULERS[row.get("sampler") or self.studio.process.default_sampler]
        spacing = {"timestep_spacing": row["spacing"]} if row.get("spacing") else {}
        karras = {"use_karras_sigmas": True} if row.get("karras") else {}
        return getattr(diffusers, name).from_config(self.studio.config, **own, **spacing, **karras)


def groups(rows: Sequence[Row], batch: int) -> list[list[Row]]:
    """Rows with equal scalars, as many as a batch holds: what one call of a pipeline takes."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        scalars = {name: value for name, value in row.items() if name not in (*OWN, "id")}
        found.setdefault(json.dumps(scalars, sort_keys=True), []).append(row)
    return [some for group in found.values() for some in parts(group, batch)]


def parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


class Decoding(threading.Thread):
    """A VAE at work beside the engine, one thread and on a GPU one stream, as a sampler worker has it."""

    def __init__(self, latents: Latents, threads: int) -> None:
        super().__init__(daemon=True)
        self.threads = threads
        self.latents, self.jobs, self.made, self.seconds = latents, queue.SimpleQueue(), {}, 0.0
        self.start()

    def run(self) -> None:
        torch.set_num_threads(self.threads)
        stream = torch.cuda.Stream() if self.latents.device.type == "cuda" else None
        with torch.cuda.stream(stream):
            while jobs := self._gather():
                began = time.perf_counter()
                states = torch.stack([state for _, state in jobs])
                padded = torch.cat([states, states.new_zeros(self.latents.at_once - len(jobs), *states.shape[1:])])
                pictures = self.latents.decode(padded)[: len(jobs)].cpu()
                self.made |= {tag: picture for (tag, _), picture in zip(jobs, pictures, strict=True)}
                self.seconds += time.perf_counter() - began

    def _gather(self) -> list[tuple[str, Tensor]]:
        """What waits, as many as are decoded at once; waits itself for the first. [] at the end."""
        jobs = [self.jobs.get()]
        while len(jobs) < self.latents.at_once and None not in jobs and not self.jobs.empty():
            jobs.append(self.jobs.get())
        if None in jobs[1:]:
            self.jobs.put(None)
        return [job for job in jobs if job is not None]

    def close(self) -> None:
        self.jobs.put(None)
        self.join()


@torch.inference_mode()
def by_engine(
    studio: Studio,
    rows: Sequence[Row],
    capacity: int,
    decode: bool = True,
    conditions: dict[str, Fields] | None = None,
) -> Made:
    """Arm C. decode: False: the states stay what they are, to see what decoding costs. conditions: of the prompts,
    where they are embedded already."""
    made, began = Made(), now(studio.device)
    conditions = conditions or studio.embedded(prompts(studio, rows))
    engine = Buckets(studio.predictor, capacity, studio.stage.shape)
    before = torch.get_num_threads()
    own, others = share_processors(studio.device)
    decoding = Decoding(studio.predictor.latents, others)
    torch.set_num_threads(own)
    for row in rows:
        engine.add(studio.plan(row, conditions), row["id"])
    while not engine.idle:
        for result in engine.advance():
            assert not isinstance(result, Failed), result
            if decode:
                decoding.jobs.put((result.tag, result.image))
    decoding.close()
    torch.set_num_threads(before)
    made.images, made.decoding = decoding.made, decoding.seconds
    made.seconds, made.evaluations = now(studio.device) - began, engine.statistics.evaluations
    return made


def prompts(studio: Studio, rows: Sequence[Row]) -> list[str]:
    return [key for row in rows for key in condition_keys(row, studio.stage)]


def now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def arms(studio: Studio, capacity: int, batch: int = BATCH) -> dict[str, Callable[[Sequence[Row]], Made]]:
    pipelines = Pipelines(studio)
    return {
        "A": lambda rows: pipelines.run(rows, 1),
        "B": lambda rows: pipelines.run(rows, batch),
        "C": lambda rows: by_engine(studio, rows, capacity),
    }
