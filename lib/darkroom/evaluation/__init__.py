"""How good a model is, measured by its pictures.

What others use, by the module that it lies in; a module is read when it is first asked for, as they cost seconds:

network            `evaluate_network`, `Sampling`, `Evaluation`: a trained network against a data set
cascade            `sample_and_judge`, `CascadeEvaluation`: a cascade of painted digits
recognition        `misfit`, `why_not_judged`: whether a classifier can judge a data set's pictures
distances          `frechet_distance`, `precision_and_recall`, `nearest`, `bootstrap_interval`
denoising          `psnr`, `psnr_table`, `noised`, `SIGMAS`: what a denoiser cleans
validation         `validation_loss`: the loss on held-out pictures, alike for every model
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "network": ("Evaluation", "Sampling", "evaluate_network"),
    "cascade": ("CascadeEvaluation", "sample_and_judge"),
    "recognition": ("misfit", "why_not_judged"),
    "distances": ("bootstrap_interval", "frechet_distance", "nearest", "precision_and_recall"),
    "denoising": ("SIGMAS", "noised", "psnr", "psnr_table"),
    "validation": ("validation_loss",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """PEP 562: the module that holds the name is imported at the first question for it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
