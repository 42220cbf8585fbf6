"""The keys that a row and its parts may have, in any task: what is said of others, and when a null is an absence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from darkroom.manifest.branches import AdapterUse, ComponentBranch, NetUse, Resample, UpperStage, ViewBranch
from darkroom.manifest.tasks import TASKS
from darkroom.phases import plural
from darkroom.sampling.components import COMPONENTS
from darkroom.sampling.names import nearest
from darkroom.sampling.views import VIEWS, parameters

ROW_KEYS = frozenset(key for task in TASKS.values() for key in task.model_fields)
PART_KEYS = frozenset(
    [
        key
        for part in (ViewBranch, ComponentBranch, Resample, UpperStage, AdapterUse, NetUse)
        for key in part.model_fields
    ]
    + [key for makers in (VIEWS, COMPONENTS) for maker in makers.values() for key in parameters(maker)]
)
# The only cells of a table that are taken as they stand; a prompt "7" stays text.
TEXT_FIELDS = frozenset(
    {"id", "task", "prompt", "negative_prompt", "timesteps", "sampler", "image", "mask", "reduction", "method"}
    | {"spacing", "fit", "empty_mask", "full_mask", "prompt_2"}
)
NESTED_FIELDS = frozenset(
    {"views", "components", "resample", "stage2", "stage3", "guidance_interval", "adapters", "control"}
)
SWITCHES = frozenset({"karras", "guess_mode"})  # a spreadsheet writes TRUE
NUMBER_FIELDS = ROW_KEYS - TEXT_FIELDS - NESTED_FIELDS - SWITCHES
DEEPEST = 16  # levels of a row: a component's view has four
LISTED = 20  # columns
# What other tools call it.
_ELSEWHERE = {
    "text": "prompt", "caption": "prompt", "prompts": "prompt", "positive_prompt": "prompt",
    "negative": "negative_prompt", "num_inference_steps": "steps", "sampling_steps": "steps", "num_steps": "steps",
    "guidance_scale": "guidance", "cfg_scale": "guidance", "cfg": "guidance", "true_cfg_scale": "true_guidance",
    "seeds": "seed", "num_frames": "frames", "guidance_scale_2": "guidance_2", "video_length": "frames",
    "resolution": "size", "image_size": "size", "sampler_name": "sampler", "sampler_index": "sampler",
    "sampling_method": "sampler", "scheduler": "sampler",
    "timestep_spacing": "spacing", "use_karras_sigmas": "karras", "rescale_cfg": "guidance_rescale",
    "init_image": "image", "mask_image": "mask", "denoising_strength": "strength", "class": "label",
    "prompt2": "prompt_2", "clipskip": "clip_skip", "lora": "adapters", "loras": "adapters", "lora_scale": "scale",
    "controlnet": "control", "controlnets": "control", "control_net": "control", "control_image": "image",
    "controlnet_conditioning_scale": "scale", "weight": "scale", "control_guidance_start": "start",
    "control_guidance_end": "end", "preprocessor": "preprocess", "low_threshold": "low", "high_threshold": "high",
}  # fmt: skip
# What it says of pictures, and rows say otherwise.
_SEVERAL = {"num_images", "num_images_per_prompt", "batch_size", "n_iter", "batch_count"}
# A task.
_TASKS_ELSEWHERE = {
    "txt2img": "text_to_image", "text2img": "text_to_image", "text2image": "text_to_image", "t2i": "text_to_image",
    "img2img": "image_to_image", "image2image": "image_to_image", "i2i": "image_to_image", "sdedit": "image_to_image",
    "inpainting": "inpaint", "outpaint": "inpaint", "visual_anagram": "anagram", "illusion": "anagram",
    "txt2vid": "text_to_video", "text2vid": "text_to_video", "text2video": "text_to_video", "t2v": "text_to_video",
    "super_resolution": "upscale", "upscaling": "upscale", "upscaler": "upscale",
}  # fmt: skip
# And a sampler.
_SAMPLERS_ELSEWHERE = {
    "plms": "pndm", "euler a": "euler_ancestral", "euler_a": "euler_ancestral", "k_euler": "euler",
    "k_euler_a": "euler_ancestral", "k_euler_ancestral": "euler_ancestral", "dpm++ 2m": "dpmpp_2m",
    "k_dpmpp_2m": "dpmpp_2m", "dpmsolver++": "dpmpp_2m", "dpm++": "dpmpp_2m", "dpm++ 2m sde": "dpmpp_2m_sde",
    "k_dpmpp_2m_sde": "dpmpp_2m_sde", "uni_pc": "unipc", "ancestral": "euler_ancestral",
    "dpm++ 2m karras": "dpmpp_2m' with 'karras: true",
    "ddpmscheduler": "ddpm", "ddimscheduler": "ddim", "pndmscheduler": "pndm", "eulerdiscretescheduler": "euler",
    "eulerancestraldiscretescheduler": "euler_ancestral", "dpmsolvermultistepscheduler": "dpmpp_2m",
    "dpmsolversdescheduler": "dpmpp_2m_sde", "unipcmultistepscheduler": "unipc",
}  # fmt: skip


def sampler_meant(given: object) -> str:
    """ ", did you mean 'pndm'?" for what other tools call a sampler, else ""."""
    meant = _SAMPLERS_ELSEWHERE.get(str(given).strip().lower())
    return f", did you mean '{meant}'?" if meant else ""


def task_meant(given: object) -> str:
    """The task that other tools call so, or that is spelt nearly so, else ""."""
    plain = str(given)[:60].strip().lower().replace("-", "_").replace(" ", "_")
    hint = nearest(given, TASKS)
    return plain if plain in TASKS else _TASKS_ELSEWHERE.get(plain) or (hint.split("'")[1] if hint else "")


def did_you_mean(key: object, names: Iterable[str]) -> str:
    """ ", did you mean 'prompt'?" where one of the names is meant: by other letters, by another tool's word, or nearly;
    else ""."""
    names = list(names)
    plain = str(key).strip().lower()
    for meant in (plain, _ELSEWHERE.get(plain, "")):
        if meant in names and meant != key:
            return f", did you mean '{meant}'?"
    if plain in _SEVERAL:
        return ": a row is one picture, so give one for each 'seed'"
    # A prompt misspelt beside one that is not is no second prompt.
    return nearest(key, [name for name in names if name != "prompt_2"])


def without_nulls(value: Any, known: frozenset[str] = ROW_KEYS, depth: int = 0) -> Any:
    """The same without the keys that have no value, where they are some task's: others are mistakes all the same.
    ValueError for what is nested too deeply."""
    if depth > DEEPEST:
        raise ValueError(f"nested too deeply, in more than {DEEPEST} levels")
    if isinstance(value, dict):
        return {
            key: without_nulls(item, PART_KEYS, depth + 1) if isinstance(item, (dict, list)) else item
            for key, item in value.items()
            if item is not None or key not in known
        }
    return [without_nulls(item, PART_KEYS, depth + 1) for item in value] if isinstance(value, list) else value


def column_problems(columns: list[str]) -> Iterator[str]:
    """What is wrong with the names of a table's columns: then no row needs to be looked at."""
    if not columns:
        yield "there are no columns"
    for column, count in list(Counter(columns).items())[:LISTED]:
        if not column:
            which = (
                "the first column has"
                if columns[0] == ""
                else f"{plural(count, 'column')} {'has' if count == 1 else 'have'}"
            )
            yield f"{which} no name; an index that pandas wrote is left out by index=False"
        elif column.startswith("__index_level_"):
            yield f"the column '{column}' is an index that pandas wrote; index=False leaves it out"
        elif re.fullmatch(r"Unnamed: \d+", column):
            yield f"the column '{column}' is one without a name that pandas has read, mostly its index: leave it out"
        elif count > 1:
            yield f"the column {column[:60]!r} is there {count:,} times"
        elif column not in ROW_KEYS:
            yield f"the column {column[:60]!r} is none that a task takes{did_you_mean(column, ROW_KEYS - {*columns})}"
