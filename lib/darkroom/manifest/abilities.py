"""What a model can do, as far as a manifest must know, and how it reads a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from darkroom.sampling.grids import GridDefaults
from darkroom.sampling.video import Video

_SPACED = frozenset({"steps", "stride", "timesteps"})  # each of which says where all steps stand


@dataclass(frozen=True)
class Abilities:
    """What a model can do.

    sizes: ascending output sizes in pixels; step: pixels of which width and height may be any multiple, 0 where it
    makes squares of `sizes` alone; default_size: the one a row gets that names none.
    num_timesteps: noise levels of the process, what `stride` and `steps` divide.
    num_classes: labels 0..num_classes - 1 may be asked for; None where the model takes none.
    upscale: whether it has upper stages that can be run alone; scorer: whether there is one to choose candidates by.
    starts: by stage, the index of its schedule at which it starts; all 0 where there are none.
    latent: the first stage works on latents, which a VAE makes pictures of: there are no pixels until it has ended.
    video: what its videos are, of a model that makes these and not pictures; experts: by two models, one after the
    other.
    sampler: of a row that names none, None for the process's own; samplers: those that rows may name, None for all of
    the process; grid: what the model says of the times of a walk.
    edits: it sees a picture that is given whole, beside what it draws.
    begun: what a strength begins of a step is made whole, see `start_index`.
    guidance: of a row that says nothing, to a model that was trained to answer as if guided, None to others; embeds: it
    is told that number, and else it is 1.
    inpaints: it paints pictures in and does nothing else, as it must be told where.
    adapters, nets: names of the adapters and control networks that rows may ask for; None where it does not matter.
    depth: whether there is a model of depth, by which a picture is made ready for a control network.
    text_layers: of CLIP, some of which may be left out; None where another encoder reads; paired: two of them read,
    and know no text from the empty one; second_text: a row may give the second of its encoders another.
    prompt_tokens: how many tokens a prompt is, end mark included; max_tokens: as many as the text encoder reads.
    """

    name: str
    sizes: tuple[int, ...]
    default_size: int
    conditioning: Literal["text", "label", "none"]
    process: Literal["diffusion", "flow"]
    num_timesteps: int
    num_classes: int | None = None
    upscale: bool = False
    scorer: bool = False
    sampler: str | None = None
    samplers: tuple[str, ...] | None = None
    grid: GridDefaults = GridDefaults()
    latent: bool = False
    step: int = 0
    inpaints: bool = False
    text_layers: int | None = None
    paired: bool = False
    second_text: bool = False
    begun: bool = False
    edits: bool = False
    guidance: float | None = None
    embeds: bool = False
    adapters: tuple[str, ...] | None = ()
    nets: tuple[str, ...] | None = ()
    depth: bool = False
    prompt_tokens: Callable[[str], int] | None = None
    max_tokens: int | None = None
    video: Video | None = None
    experts: bool = False
    starts: tuple[int, ...] = ()

    @property
    def usual(self) -> dict[str, Any]:
        """What a row has that says nothing, where that is other than of most models."""
        if self.video is not None:
            return {"guidance": self.video.guidance, "steps": self.video.steps}
        return {} if self.guidance is None else {"guidance": self.guidance}


def as_read(
    row: dict[str, Any],
    sizes: tuple[int, ...],
    paired: bool = False,
    usual: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The row as the model reads it: a size such as "stage2" is the pixels of that stage, to one that is not of two
    encoders a negative prompt of null is an absence, and what it does not say is the model's usual. ValueError where
    the model has no such stage."""
    spaced = _SPACED if row.keys() & _SPACED else frozenset()
    row = {**{name: value for name, value in usual.items() if name not in spaced}, **row}
    if not paired and row.get("negative_prompt", "") is None:
        row = {key: value for key, value in row.items() if key != "negative_prompt"}
    word = re.fullmatch(r"stage([1-9])", size) if isinstance(size := row.get("size"), str) else None
    if word is None:
        return row
    if int(word[1]) > len(sizes):
        offered = ", ".join(f"stage{number} ({pixels} px)" for number, pixels in enumerate(sizes, 1))
        raise ValueError(f"the size 'stage{word[1]}' is not one the model makes: {offered}")
    return row | {"size": sizes[int(word[1]) - 1]}
