"""Whether a model makes what a task asks for, pictures or videos, of this size and of so many frames."""

from __future__ import annotations

from collections.abc import Iterator

from darkroom.manifest.abilities import Abilities
from darkroom.manifest.tasks import Denoise, Forward, Task, Upscale

# Times a model's own, of frames too: what is larger fits no device that it was tried on, and is no picture either.
MOST_SIDE = 2


def other_kind(task: Task, abilities: Abilities) -> str:
    """A video that is asked of a model of pictures, or the other way round."""
    if abilities.video is None:
        return f"'{abilities.name}' makes pictures: text_to_video needs a model of videos, such as CogVideoX or Wan"
    does = "makes videos from text alone: the task must be text_to_video"
    return f"the task is {task.task}, and '{abilities.name}' {does}"


def frame_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """Numbers of frames that the VAE's latents do not stand for, with the nearest that they do."""
    frames, video = getattr(task, "frames", None), abilities.video
    if frames is None or video is None:
        return
    most, over = MOST_SIDE * (video.frames - 1) + 1, (frames - 1) % video.step
    if frames > most:
        yield f"'frames' must be at most {most}, twice what '{abilities.name}' was trained at, was {frames}"
    elif over:
        wanted = f"one more than a multiple of {video.step} for '{abilities.name}'"
        yield f"'frames' must be {wanted}, was {frames}: {frames - over} or {frames - over + video.step} would do"


def size_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    sizes = abilities.sizes
    if isinstance(task, Upscale):
        if not abilities.upscale:
            yield f"the model '{abilities.name}' has no stage that could upscale"
            return
        sizes = sizes[1:]
    if isinstance(task, Forward | Denoise):
        if task.size not in (None, sizes[0]):
            yield f"the size {task.size} is not one that {task.task} is made at: it is the first stage's, {sizes[0]}"
        return
    if abilities.step:
        yield from _step_misfits(task, abilities)
        return
    if task.width is not None:
        given = f"{task.width} x {task.height}"
        yield f"'{abilities.name}' makes squares, and {given} is none: give 'size', {_either(sizes)}"
        return
    size = abilities.default_size if task.size is None else task.size
    if size not in sizes:
        given = "no size is given and the model's own" if task.size is None else "the size"
        does = "upscales to" if isinstance(task, Upscale) else "makes"
        yield f"{given} {size} is not one the model '{abilities.name}' {does}: {', '.join(map(str, sizes))}"


def _either(sizes: tuple[int, ...]) -> str:
    """E.g. "24 or 48"."""
    return " or ".join(filter(None, (", ".join(map(str, sizes[:-1])), str(sizes[-1]))))


def _step_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """Sides that are no multiple of the model's step, with the nearest that are, and pictures beyond what it is for."""
    most = MOST_SIDE * abilities.default_size
    for name in ("size", "width", "height"):
        pixels, step = getattr(task, name), abilities.step
        if pixels is not None and pixels > most:
            yield f"'{name}' must be at most {most}, twice what '{abilities.name}' was trained at, was {pixels}"
        elif pixels is not None and pixels % step:
            below, above = pixels // step * step, -(-pixels // step) * step
            nearest = f"{below} or {above}" if below else f"{above}"
            yield f"'{name}' must be a multiple of {step} for '{abilities.name}', was {pixels}: {nearest} would do"
