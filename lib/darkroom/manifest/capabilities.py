"""Why a model cannot do a task, and what of it may not have been meant."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from darkroom.manifest.abilities import Abilities
from darkroom.manifest.sizes import frame_misfits, other_kind, size_misfits
from darkroom.manifest.tasks import (
    Anagram,
    Denoise,
    Forward,
    Hybrid,
    ImageToImage,
    Inpaint,
    Task,
    TextToImage,
    TextToVideo,
    Upscale,
)
from darkroom.sampling.components import Component, make_component
from darkroom.sampling.grids import KARRAS, grid_times
from darkroom.sampling.levels import descent, start_index, timesteps
from darkroom.sampling.names import nearest
from darkroom.sampling.schedules import SAMPLERS
from darkroom.sampling.trajectories import row_levels
from darkroom.sampling.views import Params, View, make_view


def misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """Why this model cannot do this task, in sentences."""
    if isinstance(task, TextToVideo) != (abilities.video is not None):
        yield other_kind(task, abilities)
        return
    yield from size_misfits(task, abilities)
    yield from frame_misfits(task, abilities)
    if getattr(task, "guidance_2", None) is not None and not abilities.experts:
        yield f"'guidance_2' is of the second of two models that make a video together, '{abilities.name}' has one"
    yield from _question_misfits(task, abilities)
    yield from _sampler_misfits(task, abilities)
    yield from _schedule_misfits(task, abilities)
    yield from _stage_misfits(task, abilities)
    yield from _picture_misfits(task, abilities)
    yield from _latent_misfits(task, abilities)
    yield from _text_misfits(task, abilities)
    yield from _guidance_misfits(task, abilities)
    yield from _adapter_misfits(task, abilities)
    yield from _control_misfits(task, abilities)
    if getattr(task, "best_of", 1) > 1 and not abilities.scorer:
        yield f"'best_of' is {task.best_of}, and there is no scorer to choose by: give one with --scorer"


def doubts(task: Task, abilities: Abilities) -> Iterator[str]:
    """What the model can do, and who asked for it may not have meant, in sentences."""
    prompt, strength = getattr(task, "prompt", None), getattr(task, "strength", None)
    if prompt and "{" in prompt and (found := re.search(r"\{\w{1,60}\}", prompt)):
        yield f"'prompt' holds {found[0]}, and no variable of that name stands beside it: it is asked as it is written"
    if task.negative_prompt and abilities.guidance is not None and task.true_guidance == 1:
        yield f"'negative_prompt' has no say on '{abilities.name}' without a 'true_guidance' above 1"
    if strength and not abilities.begun:
        count = _schedule_length(_total(abilities), task.steps, task.stride, task.timesteps)
        if start_index(count, strength) == count:
            yield f"'strength' {strength:g} of {count} steps is none of them: the picture stays as it is given"


def _question_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    takes = {"text": "prompt", "label": "label", "none": None}[abilities.conditioning]
    model = f"the model '{abilities.name}' " + (f"takes a {takes}" if takes else "takes neither prompt nor label")
    for place, branch in _asked(task):
        for name in ("prompt", "label"):
            value = getattr(branch, name)
            if name == takes and value is None:
                yield f"{place}'{name}' is missing, {model}"
            if name != takes and value is not None:
                yield f"{place}'{name}' is given, {model}"
        classes = abilities.num_classes
        if takes == "label" and branch.label is not None and classes is not None and branch.label >= classes:
            yield f"{place}'label' must be below {classes}, the classes of '{abilities.name}', was {branch.label}"
    if task.negative_prompt and takes != "prompt":
        yield f"'negative_prompt' is given, {model}"


def _sampler_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    known = abilities.samplers or SAMPLERS[abilities.process]
    *others, last = known
    model = f"the {abilities.process} model '{abilities.name}'"
    sampler = task.sampler or abilities.sampler or known[0]
    if sampler not in known:
        takes = " or ".join(filter(None, (", ".join(others), last)))
        yield f"the sampler '{sampler}' does not fit {model}, which takes {takes}"
        return
    if abilities.process == "flow":
        for name in ("spacing", "karras"):
            if getattr(task, name):
                yield f"'{name}' is of the timesteps of a diffusion, and {model} has none"
        return
    if task.karras and sampler not in KARRAS:
        whose = "this row has" if task.sampler else "the model's own is"
        yield f"'karras' is for the samplers {', '.join(KARRAS)}, {whose} '{sampler}'"
    if sampler == "unipc" and getattr(task, "resample", None) is not None:
        yield (
            "resample: the sampler 'unipc' corrects a state by the one before it, which resampling has noised anew: "
            "give another, such as dpmpp_2m"
        )
    if task.steps is not None:
        try:
            grid_times(sampler, task.steps, abilities.num_timesteps, task.spacing, abilities.grid)
        except ValueError as error:
            yield str(error)


def _asked(task: Task) -> Iterator[tuple[str, Any]]:
    if isinstance(task, Anagram):
        yield from ((f"view {number}: ", view) for number, view in enumerate(task.views, 1))
    elif isinstance(task, Hybrid):
        for number, component in enumerate(task.components, 1):
            if component.image is None:
                yield f"component {number}: ", component
    elif task.branches():
        yield "", task


def _stage_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """Settings of a stage that the model lacks, or that the row never reaches."""
    sizes = abilities.sizes
    size = abilities.default_size if task.size is None else task.size
    for number in (2, 3):
        own = getattr(task, f"stage{number}", None)
        if own is None:
            continue
        if number > len(sizes):
            count = f"{len(sizes)} stages" if len(sizes) > 1 else "one stage"
            yield f"'stage{number}' is given, the model '{abilities.name}' has {count}"
        elif size < sizes[number - 1]:
            yield f"'stage{number}' is given, a picture of {size} px never reaches it: it makes {sizes[number - 1]} px"
        elif own.steps is not None and abilities.process == "diffusion" and own.steps > abilities.num_timesteps:
            yield f"stage{number}: 'steps' must be at most {abilities.num_timesteps}, was {own.steps}"
        elif own.steps is not None and abilities.starts and own.steps < (start := abilities.starts[number - 1]):
            yield f"stage{number}: 'steps' must be at least {start}, as the stage starts after so many, was {own.steps}"


def _picture_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """Views and components that pictures of some size the row is made at have no room for."""
    size = abilities.default_size if task.size is None else task.size
    sizes = tuple(pixels for pixels in abilities.sizes if pixels <= size)
    for place, make, name, params in _views_and_components(task):
        if why := _no_room(make, name, tuple(params.items()), sizes):
            yield f"{place}'{name}' {why}, and this row is made at {' and '.join(map(str, sizes))} px"


def _latent_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """What speaks of pixels where there are none: latents that are moved, turned or blurred are not a picture's."""
    if abilities.inpaints and not isinstance(task, Inpaint):
        yield f"the model '{abilities.name}' paints pictures in, and does so alone: the task must be inpaint"
        return
    if abilities.edits:
        yield from _edit_misfits(task, abilities.name)
    does = None
    if isinstance(task, Anagram):
        does = "the views of an anagram rearrange pixels"
    elif isinstance(task, Hybrid):
        does = "the components of a hybrid are made of pixels"
    elif isinstance(task, Forward):
        does = "'forward' shows a picture with noise on its pixels"
    elif isinstance(task, Denoise) and task.method == "blur":
        does = "the method 'blur' blurs pixels"
    if abilities.latent and does:
        yield f"{does}, and '{abilities.name}' works on latents: it needs a model of pixels, such as DeepFloyd IF"
    if abilities.inpaints and isinstance(task, Inpaint) and task.resample is not None:
        yield f"'resample' goes back to a picture that is held, and '{abilities.name}' is told what to keep instead"


def _edit_misfits(task: Task, name: str) -> Iterator[str]:
    if not isinstance(task, TextToImage | ImageToImage):
        yield f"the model '{name}' edits pictures as the prompt says: the task must be image_to_image, or text_to_image"
    elif isinstance(task, ImageToImage) and task.strength != 1 and task.start != 0:
        yield f"'strength' must be 1 for '{name}', which sees the whole picture beside what it draws"


def _text_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """What is said of how a text is read, to a model that does not read so."""
    if (skip := getattr(task, "clip_skip", 0)) and skip >= (abilities.text_layers or 1):
        layers = abilities.text_layers
        why = f"must be below {layers}, the layers of its text encoder" if layers else "is for models that read by CLIP"
        yield f"'clip_skip' {why}, was {skip} for '{abilities.name}'"
    if getattr(task, "prompt_2", None) is not None and not abilities.second_text:
        yield f"'prompt_2' is for models that read by two text encoders, such as SDXL; '{abilities.name}' has one"


def _guidance_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    """Guidance that is told as a number is not what two questions make of their answers, and neither is read as the
    other."""
    if task.true_guidance != 1 and abilities.guidance is None:
        yield (
            "'true_guidance' is for models such as Flux, to which 'guidance' is a number they are told or nothing: "
            f"for '{abilities.name}' give 'guidance'"
        )
    if abilities.guidance is not None and not abilities.embeds and task.guidance != 1:
        yield (
            f"'guidance' is {task.guidance:g}, and '{abilities.name}' was trained to do without: leave it out, or give "
            "'true_guidance', which asks twice"
        )


def _adapter_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    if task.adapters and isinstance(task, Upscale):
        yield "'adapters' are of the first stage, which an upscale does not ask"
    for use in task.adapters if abilities.adapters is not None else ():
        if use.adapter not in abilities.adapters:
            hint = nearest(use.adapter, abilities.adapters) or f": give it with --adapter {use.adapter}=URI"
            yield f"the adapter '{use.adapter}' is none that was given{hint}"


def _control_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    uses = getattr(task, "control", ()) if abilities.nets is not None else ()
    if uses and not abilities.latent:
        yield f"'control' is for models of latents, such as Stable Diffusion, and '{abilities.name}' works on pixels"
        return
    for use in uses:
        if use.net not in (abilities.nets or ()):
            hint = nearest(use.net, abilities.nets or ()) or f": give it with --control {use.net}=URI"
            yield f"the control network '{use.net}' is none that was given{hint}"
        if use.preprocess == "depth" and not abilities.depth:
            yield "'preprocess' is 'depth', and there is no model of depth: give one with --depth URI"


@functools.lru_cache(maxsize=4096)
def _no_room(make: Callable[..., View | Component], name: str, params: Params, sizes: tuple[int, ...]) -> str:
    part = make(name, **dict(params))
    return next((why for pixels in sizes if (why := part.fits(pixels))), "")


def _views_and_components(task: Task) -> Iterator[tuple[str, Callable[..., View | Component], str, dict[str, Any]]]:
    """Where in the row, what makes it, its name and its own parameters."""
    if isinstance(task, Anagram):
        for number, branch in enumerate(task.views, 1):
            yield f"view {number}: ", make_view, branch.view, branch.params
    elif isinstance(task, Hybrid):
        for number, branch in enumerate(task.components, 1):
            yield f"component {number}: ", make_component, branch.component, branch.params
            if branch.view is not None:
                yield f"component {number}: ", make_view, branch.view.view, branch.view.model_extra or {}


def _schedule_misfits(task: Task, abilities: Abilities) -> Iterator[str]:
    if task.timesteps is not None and abilities.process == "flow":
        yield f"'timesteps' names a diffusion schedule, '{abilities.name}' is a flow model: give 'steps'"
        return
    try:
        count = _schedule_length(_total(abilities), task.steps, task.stride, task.timesteps)
    except ValueError as error:
        if task.steps is None or abilities.process == "flow":  # else it has been said of the sampler's steps
            yield str(error)
        return
    if isinstance(task, Forward | Denoise):
        yield from _level_misfits(task, abilities)
    start, strength = getattr(task, "start", None), getattr(task, "strength", None)
    if start is not None and start > count:
        yield f"'start' is an index into a schedule of {count} steps, was {start}"
        return
    if isinstance(task, Inpaint) and task.resample is not None:
        steps = count - (start or 0) if strength is None else count - start_index(count, strength, abilities.begun)
        # RePaint never jumps from the clean picture, so the last step is not part of any stretch.
        if task.resample.jump > steps - 1:
            yield (
                f"resample: 'jump' must be at most {max(steps - 1, 0)}, "
                f"as {steps} steps are taken and the last is never repeated, was {task.resample.jump}"
            )


def _total(abilities: Abilities) -> int:
    """As the plans have it: flow has no timesteps to stride over, so a stride counts thousandths of its time."""
    return 1000 if abilities.process == "flow" else abilities.num_timesteps


def _level_misfits(task: Forward | Denoise, abilities: Abilities) -> Iterator[str]:
    total = abilities.num_timesteps
    if abilities.process == "diffusion" and task.timestep >= total:
        yield f"'timestep' must be below {total}, the timesteps of '{abilities.name}', was {task.timestep}"
    elif isinstance(task, Denoise) and task.until is not None:
        spacing = {"steps": task.steps, "stride": task.stride, "timesteps": task.timesteps}
        try:
            descent(row_levels(spacing, abilities.process, total), task.timestep, task.until)
        except ValueError as error:
            yield str(error)


@functools.lru_cache(maxsize=1024)
def _schedule_length(num_timesteps: int, steps: int | None, stride: int | None, name: str | None) -> int:
    return len(timesteps(num_timesteps, steps=steps, stride=stride, name=name))
