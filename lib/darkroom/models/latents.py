"""Latents of a Stable Diffusion model: pictures to latents and back, by its VAE (AutoencoderKL).

A model's latents are the VAE's own, shifted and scaled to about unit variance by the numbers of its config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

DECODED_AT_ONCE = 4

LoadVAE = Callable[[str], AutoencoderKL]
"""The VAE with its weights in the dtype of that name, on the device."""


class Latents:
    """The VAE of a stage. load: how more of it is loaded, where half precision does not do; None: it is in float32."""

    def __init__(self, vae: AutoencoderKL, load: LoadVAE | None = None) -> None:
        self.vae, self._load = vae, load
        self._mean, self._deviation, self._factor = _normalization(vae.config, vae.device)

    @torch.inference_mode()
    def encode(self, picture: Tensor, noise: Tensor) -> Tensor:
        """A picture float32 [3, H, W] in [-1, 1] and normal noise [C, h, w] -> a sample of its latents, on the host.

        Alone, so that no other picture has a say in the bits.
        """

        def sample(vae: AutoencoderKL) -> Tensor:
            mean, spread = _moments(vae, picture)
            return self.scaled(mean + spread * noise[None].to(mean.device))[0].cpu()

        return self._finite(sample)

    @torch.inference_mode()
    def moments(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [C, h, w] of the VAE's own latents of a picture as of `encode`, on the host."""
        mean, spread = self._finite(lambda vae: torch.stack(_moments(vae, picture)))
        return mean[0].cpu(), spread[0].cpu()

    def scaled(self, own: Tensor) -> Tensor:
        """The model's latents [B, C, h, w] of the VAE's own, float32 on its device."""
        return (own - self._mean) * self._factor / self._deviation

    @torch.inference_mode()
    def decode(self, states: Tensor) -> Tensor:
        """Latents float32 [B, C, h, w] -> pictures float32 [B, 3, H, W], about [-1, 1], on the VAE's device."""
        own = states.to(self.vae.device, torch.float32) * self._deviation / self._factor + self._mean
        return self.vae.decode(own.to(self.vae.dtype), return_dict=False)[0].float()

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def at_once(self) -> int:
        """States that are decoded at once: in full precision each alone, as they take most memory then, or there is a
        processor, which gains nothing."""
        return 1 if self.is_whole else DECODED_AT_ONCE

    def tile(self) -> bool:
        """Decodes piece by piece from now on, for want of memory; False where it cannot, or does already."""
        return False

    def decode_whole(self, states: Tensor) -> Tensor:
        """`decode` in full precision, by weights that are loaded for it and let go."""
        return self.whole().decode(states)

    @property
    def is_whole(self) -> bool:
        """Whether it works in full precision already."""
        return self._load is None

    def whole(self) -> Latents:
        """The same in full precision, by weights that are loaded for it."""
        return self if self._load is None else Latents(self._load("float32"))

    def _finite(self, work: Callable[[AutoencoderKL], Tensor]) -> Tensor:
        """What comes of it, in full precision where half does not hold it."""
        found = work(self.vae)
        if self.is_whole or bool(found.isfinite().all()):
            return found
        return work(self.whole().vae)


def _moments(vae: AutoencoderKL, picture: Tensor) -> tuple[Tensor, Tensor]:
    """[1, C, h, w] each, float32."""
    mean, log_variance = vae._encode(picture[None].to(vae.device, vae.dtype)).float().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()  # the bounds of DiagonalGaussianDistribution


def _normalization(config: Mapping[str, Any], device: torch.device) -> tuple[Tensor, Tensor, float]:
    """Mean and deviation [1, C or 1, 1, 1] of the VAE's own latents, and factor: own = latents * deviation / factor +
    mean. Some of SDXL's VAEs give the first two for each channel."""
    means, deviations = config.get("latents_mean"), config.get("latents_std")
    if means is None or deviations is None:
        means, deviations = [config.get("shift_factor") or 0.0], [1.0]
    mean, deviation = (torch.tensor(values, device=device).reshape(1, -1, 1, 1) for values in (means, deviations))
    return mean, deviation, float(config.get("scaling_factor", 1.0))
