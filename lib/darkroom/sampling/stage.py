"""What a plan is made of: a row of the manifest, a stage of the model, and the row's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from darkroom.sampling.processes import Process
from darkroom.sampling.video import Expert, Video

Row = Mapping[str, Any]
"""A task's canonical form."""
Fields = Mapping[str, Tensor]
"""What a model is told beside state and time, by name: one question's, so without an axis for the pass."""
CONDITION, NOISE_LEVEL = "condition", "noise_level"
POOLED, SIZES = "pooled", "time_ids"  # of SDXL: a second embedding, and sizes in pixels
GUIDANCE = "guidance"  # of Flux: told, and no second question
FIELDS = (CONDITION, NOISE_LEVEL)  # of a model that says nothing of its fields


Shape = tuple[int, ...]
"""Of a state: [C, H, W], or of a video [C, F, H, W]."""


@dataclass(frozen=True)
class Stage:
    """One model of a cascade, as far as a plan must know it.

    `steps`, `guidance` and `noise_level` are the stage's own where it does not follow the row's (stages II and III).
    `guidance_interval`: the shares of the schedule between which guidance is asked where a row does not say.
    `start`: it starts from the enlarged low-resolution picture, noised to the time of that index; 0: from pure noise.
    `factor`: pixels of the picture per element of the state, along a side: more than 1 where a VAE decodes the state.
    `inpaints`: the model sees mask and masked picture beside the state; `folds`: the mask with each of its pixels;
    `edits`: it sees a picture that a row gives beside the state, whole; `sized`: it is told SIZES.
    `step`: pixels of which a picture's width and height may be any multiple, 0 where it makes squares of `size` alone;
    `rectangle`: width and height that a row asks for.
    `patch`: elements of the state, along a side, that the model sees as one token.
    `distilled`: it was trained to answer as if guided, and what rows ask by two questions is their true guidance;
    `embeds_guidance`: it is told how much.
    `video`: it makes videos, and not pictures; `expert`: its walk is a part of one.
    `sampler`: the stage's own, where it does not take the row's; `noising`: what noises the low-resolution picture, if
    not `process`.
    """

    number: int
    size: int
    channels: int
    process: Process
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    noise_level: int | None = None
    start: int = 0
    factor: int = 1
    sampler: str | None = None
    noising: Process | None = None
    inpaints: bool = False
    sized: bool = False
    step: int = 0
    patch: int = 1
    embeds_guidance: bool = False
    distilled: bool = False
    folds: bool = False
    edits: bool = False
    rectangle: tuple[int, int] | None = None
    video: Video | None = None
    expert: Expert | None = None

    @property
    def enlarges_latents(self) -> bool:
        """Whether a picture of pixels goes in beside latents. What a row says of pixels (views, components, masks) has
        had its say then, so such a stage asks with the row's first prompt alone."""
        return self.factor > 1 and self.noise_level is not None

    @property
    def encodes(self) -> bool:
        """Whether its states are latents of whole pictures, so that a picture that a row gives is encoded."""
        return self.factor > 1 and not self.enlarges_latents

    @property
    def hands_over(self) -> bool:
        """Whether another stage goes on from its state."""
        return self.expert is not None and self.expert.is_first

    @property
    def decodes(self) -> bool:
        """Whether its states end as latents, which a VAE makes pictures of."""
        return self.factor > 1 and not self.hands_over

    @property
    def extra_channels(self) -> int:
        """Channels that the model sees beside the state; of one that edits, where a picture is given."""
        if self.edits:
            return self.channels
        if self.inpaints:
            return (self.factor**2 if self.folds else 1) + self.channels
        if self.noise_level is None:
            return 0
        return 3 if self.factor > 1 else self.channels

    @property
    def shape(self) -> Shape:
        """[C, H, W] of the state, [C, F, H, W] of a video's."""
        width, height = self.pixels
        frames = () if self.video is None else (self.video.latent_frames,)
        return (self.channels, *frames, height // self.factor, width // self.factor)

    @property
    def tokens(self) -> int:
        """Of its state."""
        *_, height, width = self.shape
        frames = 1 if self.video is None else self.video.latent_frames
        return frames * (height // self.patch) * (width // self.patch)

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.rectangle or (self.size, self.size)


def at_size(row: Row, stage: Stage) -> Stage:
    """The stage as it makes a row's picture or video: of the size and frames that the row asks for, where it makes
    any."""
    if stage.video is not None and "frames" in row:
        stage = replace(stage, video=replace(stage.video, frames=row["frames"]))
    if not stage.step:
        return stage
    if "width" in row:
        return replace(stage, rectangle=(row["width"], row["height"]))
    return replace(stage, rectangle=(row["size"], row["size"])) if "size" in row else stage


@dataclass(frozen=True, eq=False)
class Handed:
    """Where a walk stands that goes on elsewhere: its state, and what its solver remembers, a tensor like the state or
    None for each that it may."""

    x: Tensor
    memory: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Inputs:
    """A row's tensors, at the stage's size unless said otherwise.

    conditions: what the model takes for each prompt or label, by `condition_keys`: the field CONDITION, or several
    image, given: [C, H, W] in [-1, 1]; mask: bool [1, H, W], True = paint; low_res: [C, h, w] in [-1, 1], any size
    beside: what an inpainting model sees beside the state, mask and latents of the picture without its masked part; or
        the latents that one sees which edits
    fields: what the model is told of the row whatever it is asked, beside what its stage says of it
    handed: what an expert before has left
    hints: [3, H, W] in [0, 1], pictures of the row's size by the control network that sees them, in their order
    A stage of latents takes latents of `image` and a mask of their size: see `latent_inputs`.
    """

    conditions: Mapping[str, Tensor | Fields]
    image: Tensor | None = None
    mask: Tensor | None = None
    given: Tensor | None = None
    low_res: Tensor | None = None
    beside: Tensor | None = None
    fields: Fields = field(default_factory=dict)
    handed: Handed | None = None
    hints: Mapping[str, Tensor] = field(default_factory=dict)
