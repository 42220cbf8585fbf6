"""What a manifest may ask of a model: a module of its own, as whoever only checks rows need not import Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.manifest import Abilities

if TYPE_CHECKING:
    from darkroom.models.catalog import Model


def abilities(model: Model, scorer: bool = False) -> Abilities:
    """What a manifest may ask of this model. scorer: there is one to choose candidates by."""
    process = model.stages[0].process
    reads = model.encoders[0] if model.encoders else None
    return Abilities(
        name=model.name,
        sizes=model.sizes,
        default_size=model.default_size,
        conditioning=model.conditioning,
        process=process.kind,
        num_timesteps=process.num_timesteps,
        num_classes=model.num_classes,
        upscale=len(model.stages) > 1,
        scorer=scorer,
        prompt_tokens=(lambda prompt: model.encoder_tokens(reads, [prompt])[0]) if reads else None,
        max_tokens=model.encoder_length(reads) if reads else None,
    )
