"""What a user of diffusers would run: its IF pipelines, and for what it lacks the plain loops of two papers.

Anagrams (arXiv 2311.17919) and hybrids (arXiv 2404.11615) are the authors' loop around the same UNet and diffusers'
scheduler: all branches of a step in one pass, each with its own unconditional question. Every call takes rows of one
task and one number of steps. Noise is each row's own, as in the engine, so that the pictures can be compared.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from unittest.mock import patch

import torch
from diffusers import DDPMScheduler, IFImg2ImgPipeline, IFInpaintingPipeline, IFPipeline
from mix import Row, Studio
from torch import Tensor

from darkroom.sampling import noise
from darkroom.sampling.components import make_component
from darkroom.sampling.levels import timesteps
from darkroom.sampling.views import make_view

DRAWING = [f"diffusers.pipelines.deepfloyd_if.pipeline_if{kind}" for kind in ("", "_img2img", "_inpainting")] + [
    "diffusers.schedulers.scheduling_ddpm"
]


class Peers:
    """`develop` makes the pictures of rows that one call can make; `groups` says which those are."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.device = studio, studio.predictor.device
        self.unet = studio.predictor.unet
        self.scheduler = DDPMScheduler.from_config(studio.scheduler)
        # Its own table is a product of a thousand factors in float32: good to 1e-4 of a picture. With this one the
        # comparison sees what is wrong, and not that.
        self.scheduler.alphas_cumprod = studio.predictor.process.alphas_cumprod
        self.scheduler.one = self.scheduler.one.double()
        self.pipelines = {kind: self._pipeline(kind) for kind in (IFPipeline, IFImg2ImgPipeline, IFInpaintingPipeline)}
        self.tasks: dict[str, Callable[[list[Row]], Tensor]] = {
            "text_to_image": self._text_to_image,
            "image_to_image": self._image_to_image,
            "inpaint": self._inpaint,
            "anagram": self._anagram,
            "hybrid": self._hybrid,
        }

    @staticmethod
    def groups(rows: Iterable[Row]) -> list[list[Row]]:
        """Rows of one task and one number of steps."""
        groups: dict[tuple, list[Row]] = {}
        for row in rows:
            groups.setdefault((row["task"], row.get("start")), []).append(row)
        return list(groups.values())

    @torch.inference_mode()  # kinder than the no_grad of the pipelines
    def develop(self, rows: list[Row]) -> Tensor:
        """float32 [len(rows), 3, S, S]."""
        with _injected(rows, self.device):
            return self.tasks[rows[0]["task"]](rows).cpu()

    def _pipeline(self, kind: type) -> Callable[..., Tensor]:
        parts = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")
        made = kind(unet=self.unet, scheduler=self.scheduler, requires_safety_checker=False, **dict.fromkeys(parts))
        made.set_progress_bar_config(disable=True)
        return lambda **more: made(output_type="pt", timesteps=self._timesteps(), **more).images

    def _timesteps(self) -> list[int]:
        return timesteps(self.scheduler.config.num_train_timesteps, stride=self.studio.stride)

    def _text_to_image(self, rows: list[Row]) -> Tensor:
        return self.pipelines[IFPipeline](**self._prompts(rows))

    def _image_to_image(self, rows: list[Row]) -> Tensor:
        steps = len(self._timesteps())
        strength = (steps - rows[0]["start"] + 0.5) / steps  # the half, because diffusers rounds down
        return self.pipelines[IFImg2ImgPipeline](image=self._images(rows), strength=strength, **self._prompts(rows))

    def _inpaint(self, rows: list[Row]) -> Tensor:
        masks = self.studio.mask.float().expand(len(rows), -1, -1, -1).clone()
        return self.pipelines[IFInpaintingPipeline](
            image=self._images(rows), mask_image=masks, strength=1.0, **self._prompts(rows)
        )

    def _prompts(self, rows: list[Row]) -> dict[str, object]:
        return {
            "prompt_embeds": self._embed(row["prompt"] for row in rows),
            "negative_prompt_embeds": self._embed("" for _ in rows),
            "guidance_scale": rows[0]["guidance"],
        }

    def _embed(self, prompts: Iterable[str]) -> Tensor:
        return torch.stack([self.studio.conditions[prompt] for prompt in prompts]).to(self.device, self.unet.dtype)

    def _images(self, rows: list[Row]) -> Tensor:
        return torch.stack([self.studio.pictures[row["image"]] for row in rows])

    def _anagram(self, rows: list[Row]) -> Tensor:
        views = [make_view(part["view"]) for row in rows for part in row["views"]]
        prompts = [part["prompt"] for row in rows for part in row["views"]]

        def predict(x: Tensor, t: Tensor, guided: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            seen = torch.cat([view.apply(one) for view, one in zip(views, _twice(x), strict=True)])
            epsilon, variance = guided(seen, t).chunk(2, dim=1)
            epsilon = torch.cat([v.undo(one) for v, one in zip(views, epsilon.split(1), strict=True)])
            variance = torch.cat([v.undo_variance(one) for v, one in zip(views, variance.split(1), strict=True)])
            return torch.cat([_pairs(epsilon).mean(1), _pairs(variance).mean(1)], dim=1)

        return self._loop(rows, prompts, predict)

    def _hybrid(self, rows: list[Row]) -> Tensor:
        parts = [_component(part) for row in rows for part in row["components"]]
        prompts = [part["prompt"] for row in rows for part in row["components"]]

        def predict(x: Tensor, t: Tensor, guided: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            epsilon, variance = guided(torch.cat(_twice(x)), t).chunk(2, dim=1)
            epsilon = torch.cat([part(one) for part, one in zip(parts, epsilon.split(1), strict=True)])
            return torch.cat([_pairs(epsilon).sum(1), _pairs(variance).mean(1)], dim=1)

        return self._loop(rows, prompts, predict)

    def _loop(self, rows: list[Row], prompts: list[str], predict: Callable[..., Tensor]) -> Tensor:
        both = torch.cat([self._embed("" for _ in prompts), self._embed(prompts)])
        guidance = rows[0]["guidance"]

        def guided(seen: Tensor, t: Tensor) -> Tensor:
            both_seen = torch.cat([seen, seen]).to(self.unet.dtype)
            answers = self.unet(both_seen, t, encoder_hidden_states=both, return_dict=False)[0]
            unconditional, conditional = answers.float().chunk(2)
            unconditional, _ = unconditional.chunk(2, dim=1)
            conditional, variance = conditional.chunk(2, dim=1)
            return torch.cat([unconditional + guidance * (conditional - unconditional), variance], dim=1)

        self.scheduler.set_timesteps(timesteps=self._timesteps(), device=self.device)
        size = self.studio.stage.size
        x = _normal(rows, noise.START, 0, (3, size, size)).to(self.device)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(predict(x, t, guided), t, x, return_dict=False)[0]
        return x


def _component(part: Row) -> Callable[[Tensor], Tensor]:
    return make_component(part["component"], **{k: v for k, v in part.items() if k not in ("component", "prompt")})


def _twice(x: Tensor) -> list[Tensor]:
    """Every sample once for each of its two branches."""
    return [one for one in x.split(1) for _ in range(2)]


def _pairs(parts: Tensor) -> Tensor:
    return parts.view(-1, 2, *parts.shape[1:])


def _normal(rows: list[Row], stream: int, draw: int, shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.from_numpy(noise.normal(row["seed"], 1, stream, draw, shape)) for row in rows])


def _injected(rows: list[Row], device: torch.device) -> ExitStack:
    """While it is open, diffusers draws the rows' own noise: the start first if a pipeline asks, then one a step."""
    draws = _order(rows[0]["task"] in ("anagram", "hybrid"))

    def randn_tensor(shape, dtype: torch.dtype | None = None, **_: object) -> Tensor:
        return _normal(rows, *next(draws), tuple(shape[1:])).to(device, dtype)

    stack = ExitStack()
    for module in DRAWING:
        stack.enter_context(patch.object(importlib.import_module(module), "randn_tensor", randn_tensor))
    return stack


def _order(started: bool) -> Iterator[tuple[int, int]]:
    if not started:
        yield noise.START, 0
    yield from ((noise.STEP, draw) for draw in count())
