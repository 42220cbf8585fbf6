"""A diffusers scheduler's configuration, read as one of our processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.sampling.diffusion import Diffusion

_PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {"fixed_small": False, "fixed_small_log": False, "learned_range": True}


def process_from_scheduler(config: Mapping[str, Any]) -> Diffusion:
    """The process of a `scheduler_config.json` as DDPMScheduler understands it; DDIM's reads alike.

    Raises ValueError for one we lack.
    """
    prediction = _known(_PREDICTIONS, config.get("prediction_type", "epsilon"), "prediction_type")
    learned = _known(_VARIANCES, config.get("variance_type", "fixed_small"), "variance_type")
    how: dict[str, Any] = {"prediction": prediction, "learned_variance": learned}
    if config.get("thresholding"):
        how["threshold"] = (config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    elif config.get("clip_sample", True):
        how["clip"] = config.get("clip_sample_range", 1.0)
    steps = config.get("num_train_timesteps", 1000)
    schedule = config.get("beta_schedule", "linear")
    if schedule == "squaredcos_cap_v2":
        return Diffusion.cosine(steps, **how)
    makers = {"linear": Diffusion.linear, "scaled_linear": Diffusion.scaled_linear}
    if schedule in makers:
        return makers[schedule](steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02), **how)
    raise ValueError(f"beta_schedule {schedule!r} is not one we know (squaredcos_cap_v2, {', '.join(makers)})")


def _known(table: Mapping[str, Any], given: str, what: str) -> Any:
    if given not in table:
        raise ValueError(f"{what} {given!r} is not one we know ({', '.join(table)})")
    return table[given]
