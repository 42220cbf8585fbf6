"""What a gate may ask for: the measures of an evaluation by name, which way is better, and what values are possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from darkroom.evaluation.denoising import SIGMAS

Kind = Literal["label", "unconditional", "denoiser", "adapter"]
_ANY: tuple[Kind, ...] = ("label", "unconditional", "denoiser", "adapter")
_GENERATES: tuple[Kind, ...] = ("label", "unconditional")


def network_kind(process: Any, network: Mapping[str, Any]) -> Kind:
    """By what a config.json says of a network: its process, None of a denoiser, and its shape."""
    if process is None:
        return "denoiser"
    return "label" if network.get("num_classes") else "unconditional"


@dataclass(frozen=True)
class Metric:
    """most: the largest possible value, None where there is none; the least of all is 0, but for `signed` ones.
    of: the kinds of network that have it; judged: whether it wants the digit classifier."""

    title: str
    better: Literal["higher", "lower"]
    most: float | None = None
    of: tuple[Kind, ...] = _GENERATES
    judged: bool = False
    signed: bool = False


def psnr_name(sigma: float) -> str:
    """psnr_0.4"""
    return f"psnr_{sigma:g}"


METRICS: dict[str, Metric] = {
    "class_accuracy": Metric("class accuracy", "higher", 1.0, ("label",), judged=True),
    "worst_class_accuracy": Metric("accuracy of the worst digit", "higher", 1.0, ("label",), judged=True),
    "frechet_distance": Metric("Fréchet distance", "lower", judged=True),
    "precision": Metric("precision", "higher", 1.0, judged=True),
    "recall": Metric("recall", "higher", 1.0, judged=True),
    "validation_loss": Metric("validation loss", "lower", of=(*_GENERATES, "adapter")),
    "nearest_training_picture": Metric("distance to the nearest training picture, mean", "higher"),
    "nearest_training_minimum": Metric("distance to the nearest training picture, least", "higher"),
    "seconds_per_sample": Metric("seconds per sample", "lower"),
    **{
        psnr_name(sigma): Metric(f"PSNR at sigma {sigma:g}, dB", "higher", of=("denoiser",), signed=True)
        for sigma in SIGMAS
    },
    "size": Metric("size of the weights, bytes", "lower", of=_ANY),
}
