"""The two kinds of reverse process, which offer the same: attributes, `noise`, `noised`, `x0_and_noise`, `bounded`,
`coefficients` and `step`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.flow import Flow
from darkroom.sampling.names import unknown
from darkroom.sampling.solvers import Column

__all__ = ["Column", "Diffusion", "Flow", "Process", "process_from_config"]

Process = Diffusion | Flow
_KINDS: dict[str, type[Diffusion] | type[Flow]] = {"diffusion": Diffusion, "flow": Flow}


def process_from_config(config: Mapping[str, Any]) -> Process:
    """The process a model directory's config.json describes. Raises ValueError on what it does not know."""
    kind = config.get("kind")
    if kind not in _KINDS:
        raise unknown("kind of process", str(kind), _KINDS)
    return _KINDS[kind].from_config(config)
