"""What a stage's videos are, and its part of a walk: apart from the stage, as a manifest is checked before torch is
there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expert:
    """One of two models that make a walk together (Wan 2.2): the first is asked at times from `boundary` on and hands
    its state over, with what the solver remembers; the second at times below."""

    boundary: float
    is_first: bool


@dataclass(frozen=True)
class Video:
    """What a stage's videos are. frames: of one, in pixels; compression: frames that a state's frame stands for, each
    but the first, which stands for one; step: what frames - 1 must be a multiple of; fps: frames a second. guidance,
    steps: of a row that says nothing, as the pipelines of its family have them."""

    frames: int
    compression: int
    step: int
    fps: int
    guidance: float
    steps: int = 50

    @property
    def latent_frames(self) -> int:
        """Of a state."""
        return (self.frames - 1) // self.compression + 1
