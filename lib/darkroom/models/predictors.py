"""A stage's UNet, with its VAE where it has one, as the engine asks it."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from darkroom.sampling.processes import Process


class UNetPredictor:
    """See `darkroom.sampling.engine.Predictor`: float32 in and out, whatever the dtype of the weights."""

    def __init__(
        self, unet: UNet2DConditionModel, process: Process, device: torch.device, vae: AutoencoderKL | None = None
    ) -> None:
        self.unet = unet.to(device, memory_format=torch.channels_last)
        self.process, self.device, self.vae = process, device, vae
        self.dtype = unet.dtype
        self._takes_level = unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None

    def __call__(self, x: Tensor, timestep: Tensor, condition: Tensor, noise_level: Tensor) -> Tensor:
        more = {"class_labels": noise_level} if self._takes_level else {}
        x = x.to(self.dtype, memory_format=torch.channels_last)
        answer = self.unet(x, timestep, encoder_hidden_states=condition.to(self.dtype), **more).sample
        return answer.float().contiguous()

    @torch.inference_mode()
    def decode(self, state: Tensor) -> Tensor:
        """Latents float32 [C, h, w] -> the picture float32 [3, H, W], about [-1, 1]; both on the host or the device.

        Alone and in float32: a VAE overflows in half precision, and its memory grows with the picture.
        """
        assert self.vae is not None, "a stage without a VAE has no latents"
        latents = state[None].to(self.device, torch.float32) / self.vae.config.scaling_factor
        return self.vae.decode(latents, return_dict=False)[0][0].to(state.device)
