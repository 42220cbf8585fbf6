"""Plans to pictures in this process: the engine without Ray, without files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from darkroom.sampling.buckets import Buckets
from darkroom.sampling.engine import Failed, Finished, Predictor
from darkroom.sampling.out_of_memory import halving
from darkroom.sampling.plans import Plan
from darkroom.sampling.stage import Shape


def walk_plans(
    predictor: Predictor, plans: Iterable[Plan], capacity: int, shape: Shape | None = None
) -> list[Finished]:
    """Every plan walked to its end, in the order of the plans; all of them share the passes.

    capacity: evaluations a pass, filled up with empty places; a picture's bits depend on it, and on nothing beside it.
    shape: of the states of which so many make a pass, see `Buckets`. Raises what a row failed by.
    Images are float32 [C, H, W] on the host, about [-1, 1] and not clamped; latents where a VAE decodes the state.
    """
    buckets, finished = Buckets(predictor, capacity, shape), []
    for number, plan in enumerate(plans):
        buckets.add(plan, number)
    while not buckets.idle:
        for result in buckets.advance():
            if isinstance(result, Failed):
                raise result.error
            finished.append(result)
    return sorted(finished, key=lambda result: result.tag)


def walk_fitting(
    predictor: Predictor, plans: Sequence[Plan], capacity: int, shape: Shape | None = None
) -> list[Finished]:
    """`walk_plans`, with half as many evaluations a pass, and so on, where the device's memory ends. Raises
    OutOfMemoryError where not even one fits."""
    return halving(lambda fewer: walk_plans(predictor, plans, fewer, shape), capacity)
