"""Flows as diffusers' scheduler_config.json describe them: by FlowMatchEulerDiscreteScheduler (SD3, Flux, Wan) or UniPC
(Wan)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.sampling.flow import Flow
from darkroom.sampling.shifts import Shift

_NO_FLOW_OF_OURS = (
    "shift_terminal", "invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "stochastic_sampling",
)  # fmt: skip
_BY_TOKENS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
_NO_UNIPC_OF_OURS = (
    "thresholding", "disable_corrector", "solver_p", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "use_dynamic_shifting", "shift_terminal",
)  # fmt: skip


def flow_from_scheduler(config: Mapping[str, Any], ends_trained: bool) -> Flow:
    """The process of a `scheduler_config.json` of FlowMatchEulerDiscreteScheduler. ends_trained: see `Shift`.

    Raises ValueError for one we lack.
    """
    if (name := config.get("_class_name")) != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(f"it is of a {name}, wanted FlowMatchEulerDiscreteScheduler")
    if lacking := [word for word in _NO_FLOW_OF_OURS if config.get(word)]:
        raise ValueError(f"{' and '.join(lacking)} do not run here")
    if (count := config.get("num_train_timesteps", 1000)) != 1000:
        raise ValueError(f"num_train_timesteps must be 1000, was {count}")
    if not config.get("use_dynamic_shifting"):
        return Flow(shift=Shift(config.get("shift", 1.0), ends_trained=ends_trained))
    by_tokens = tuple(config.get(word, usual) for word, usual in _BY_TOKENS.items())
    linear = config.get("time_shift_type", "exponential") == "linear"
    return Flow(shift=Shift(by_tokens=by_tokens, linear=linear, ends_trained=ends_trained))


def unipc_flow_from_scheduler(config: Mapping[str, Any]) -> Flow:
    """The process of a `scheduler_config.json` of UniPCMultistepScheduler that walks a flow. Raises ValueError for one
    that we lack."""
    if (name := config.get("_class_name")) != "UniPCMultistepScheduler":
        raise ValueError(f"it is of a {name}, wanted UniPCMultistepScheduler or FlowMatchEulerDiscreteScheduler")
    usual = {"prediction_type": "epsilon", "use_flow_sigmas": False, "solver_order": 2, "solver_type": "bh2"}
    usual |= {"predict_x0": True, "final_sigmas_type": "zero", "num_train_timesteps": 1000, "lower_order_final": True}
    wanted = usual | {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    given = usual | config
    wrong = [f"{name} is {given[name]!r}, wanted {value!r}" for name, value in wanted.items() if given[name] != value]
    wrong += [f"{name} does not run here" for name in _NO_UNIPC_OF_OURS if config.get(name)]
    if wrong:
        raise ValueError("; ".join(wrong))
    return Flow(shift=Shift(config.get("flow_shift", 1.0), multistep=True))
