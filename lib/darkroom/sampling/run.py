"""Plans to pictures in this process: the engine without Ray, without files."""

from __future__ import annotations

from collections.abc import Iterable

from darkroom.sampling.engine import Engine, Finished, Predictor
from darkroom.sampling.plans import Plan


def walk_plans(predictor: Predictor, plans: Iterable[Plan], capacity: int) -> list[Finished]:
    """Every plan walked to its end, in the order of the plans; all of them share the passes.

    capacity: evaluations a pass, filled up with empty places; a picture's bits depend on it, and on nothing beside it.
    Images are float32 [C, H, W] on the host, about [-1, 1] and not clamped; latents where a VAE decodes the state.
    """
    engine = Engine(predictor, capacity)
    for number, plan in enumerate(plans):
        engine.add(plan, number)
    return sorted(engine.run(), key=lambda finished: finished.tag)
