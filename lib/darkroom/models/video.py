"""The transformers of videos as the engine asks them: a state is [C, F, H, W]."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from darkroom.models.memory import Memory, count_flops, measure
from darkroom.models.stages import transformer_fields
from darkroom.models.video_latents import VideoLatents, build_video_vae
from darkroom.models.weights import in_dtype
from darkroom.sampling.processes import Process
from darkroom.sampling.stage import Shape

WAN_WHOLE = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # as diffusers loads it
Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of every token's place, float32 [tokens, width of a head]."""


def build_video_transformer(config: Mapping[str, Any]) -> nn.Module:
    """Of a transformer/config.json. Tables of places that no file holds are made at once, on the processor, also where
    all else is built without memory."""
    if config["_class_name"] == "WanTransformer3DModel":
        transformer = WanTransformer3DModel.from_config(dict(config))
        with torch.device("cpu"):
            rope = transformer.rope
            transformer.rope = type(rope)(rope.attention_head_dim, rope.patch_size, rope.max_seq_len)
        return transformer
    transformer = CogVideoXTransformer3DModel.from_config(dict(config))
    embed = transformer.patch_embed
    if embed.use_positional_embeddings:
        sizes = (embed.sample_height, embed.sample_width, embed.sample_frames)
        with torch.device("cpu"):
            table = embed._get_positional_embeddings(*sizes)
        embed.register_buffer("pos_embedding", table, persistent=False)
    return transformer


class VideoPredictor:
    """See `darkroom.sampling.engine.Predictor`: float32 in and out, whatever the dtype of the weights."""

    def __init__(
        self,
        transformer: nn.Module,
        process: Process | None,
        device: torch.device,
        latents: VideoLatents | None = None,
    ) -> None:
        self.transformer = transformer.to(device)
        self.process, self.device, self.latents = process, device, latents
        self.dtype = transformer.proj_out.weight.dtype  # some others are whole whatever it is
        self.fields = tuple(transformer_fields(transformer.config, 1))

    @abstractmethod
    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """condition: float32 [B, length, width], of a prompt."""


class WanPredictor(VideoPredictor):
    """Wan's transformer, which answers with the velocity towards noise; here it leads to the video."""

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        (answer,) = self.transformer(x.to(self.dtype), timestep, condition.to(self.dtype), return_dict=False)
        return answer.float().neg()


class CogVideoXPredictor(VideoPredictor):
    """CogVideoX' transformer, which answers with v."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._rotary: dict[torch.Size, Rotary] = {}  # by the state's shape

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        (answer,) = self.transformer(
            x.to(self.dtype).transpose(1, 2),  # frames before channels
            condition.to(self.dtype),
            timestep,
            image_rotary_emb=self._places(x.shape[1:]) if self._turns else None,
            return_dict=False,
        )
        return answer.transpose(1, 2).float()

    @property
    def _turns(self) -> bool:
        """Whether it is told where a token stands by turning queries and keys: CogVideoX 5b."""
        return self.transformer.config.use_rotary_positional_embeddings

    def _places(self, shape: torch.Size) -> Rotary:
        if shape not in self._rotary:
            self._rotary[shape] = rotary_places(self.transformer.config, shape, self.device)
        return self._rotary[shape]


def predictor_class(config: Mapping[str, Any]) -> type[VideoPredictor]:
    """Of a transformer/config.json."""
    return WanPredictor if config["_class_name"] == "WanTransformer3DModel" else CogVideoXPredictor


def whole_parts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the parts that are in float32 beside others in half precision."""
    return WAN_WHOLE if config["_class_name"] == "WanTransformer3DModel" else ()


def rotary_places(config: Mapping[str, Any], shape: Shape, device: torch.device) -> Rotary:
    """Of a state [C, F, H, W] to CogVideoX 5b, which was trained at one size: the places of another lie within its
    rectangle, as large as fits and in its middle."""
    _, frames, height, width = shape
    rows, columns = height // config["patch_size"], width // config["patch_size"]
    most_rows, most_columns = (config[side] // config["patch_size"] for side in ("sample_height", "sample_width"))
    scale = most_rows / rows if rows / columns > most_rows / most_columns else most_columns / columns
    inner = (round(rows * scale), round(columns * scale))
    top, left = (round((most - own) / 2) for most, own in zip((most_rows, most_columns), inner, strict=True))
    return get_3d_rotary_pos_embed(
        embed_dim=config["attention_head_dim"],
        crops_coords=((top, left), (top + inner[0], left + inner[1])),
        grid_size=(rows, columns),
        temporal_size=frames,
        device=device,
    )


def pass_memory(
    config: Mapping[str, Any],
    dtype: str,
    capacity: int,
    shape: Shape,
    length: int,
    vae: Mapping[str, Any] | None,
    vae_dtype: str = "float32",
) -> Memory:
    """As `mmdit.pass_memory`, of states [C, F, H, W]; vae: None where another stage decodes them."""
    needed = measure(*_meta_pass(config, dtype, capacity, shape, length))
    if vae is None:
        return needed
    with torch.device("meta"):
        latents = VideoLatents(in_dtype(build_video_vae(vae), vae_dtype))
    state = torch.empty(1, *shape, device="meta")
    decoding = measure(latents.vae, lambda: latents.decode(state))
    return Memory(needed.weights + decoding.weights, needed.activations + decoding.activations)


def evaluation_flops(config: Mapping[str, Any], shape: Shape, length: int) -> int:
    """Floating point operations of one evaluation, 2 a multiply-add; arguments as of `pass_memory`."""
    return count_flops(_meta_pass(config, "float32", 1, shape, length)[1])


def _meta_pass(
    config: Mapping[str, Any], dtype: str, capacity: int, shape: Shape, length: int
) -> tuple[nn.Module, Callable[[], None]]:
    """A predictor's network on the meta device, and a pass of it."""
    meta = torch.device("meta")
    with meta:
        transformer = in_dtype(build_video_transformer(config), dtype, always_float32=whole_parts(config))
        predictor = predictor_class(config)(transformer, None, meta)
        fields = transformer_fields(config, length).values()

    def run() -> None:
        x, times = torch.empty(capacity, *shape, device=meta), torch.zeros(capacity, device=meta)
        predictor(x, times, *(field.new_zeros(capacity, *field.shape) for field in fields))

    return predictor.transformer, run
