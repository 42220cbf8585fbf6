"""What `darkroom train` can train, by name; `--set key=value` changes any field of a recipe."""

from __future__ import annotations

from darkroom.sampling.names import unknown
from darkroom.training.recipes.classifier import ClassifierRecipe
from darkroom.training.recipes.ddpm import Cifar10DDPM, MnistDDPM
from darkroom.training.recipes.denoiser import Denoiser, PureNoiseDenoiser
from darkroom.training.recipes.flow import FlowClass, FlowClassConstantRate, FlowTime
from darkroom.training.recipes.if_xs import IfXs
from darkroom.training.recipes.lora import Lora
from darkroom.training.recipes.recipe import Recipe
from darkroom.training.recipes.sd_xs import SdXs

_ALL: tuple[type[Recipe], ...] = (
    Denoiser, PureNoiseDenoiser, FlowTime, FlowClass, FlowClassConstantRate, MnistDDPM, Cifar10DDPM, IfXs,
    SdXs, ClassifierRecipe, Lora,
)  # fmt: skip
RECIPES = {recipe.name: recipe for recipe in _ALL}


def find_recipe(name: str) -> type[Recipe]:
    """The recipe of that name. ValueError if there is none."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
