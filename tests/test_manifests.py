"""The manifests that ship: whole, within their model's abilities, and showing what they promise."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darkroom.evaluation.scenes import wish_of
from darkroom.manifest import TASKS, Abilities, ManifestError, Task, open_manifest
from darkroom.manifest.sources import ALONE_SUFFIXES, PART_SUFFIXES
from darkroom.sampling.components import COMPONENTS
from darkroom.sampling.schedules import SAMPLERS
from darkroom.sampling.views import VIEWS
from darkroom.storage import decode
from darkroom.training import painted_digits, painted_scenes

FOLDER = Path(__file__).parents[1] / "manifests"
MANIFESTS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (*PART_SUFFIXES, *ALONE_SUFFIXES))
IF_XS = Abilities(
    name="if-xs",
    sizes=(24, 48),
    default_size=24,
    conditioning="text",
    process="diffusion",
    num_timesteps=1000,
    upscale=True,
    scorer=True,
)
IF = replace(IF_XS, name="deepfloyd-xl", sizes=(64, 256, 1024), default_size=64, scorer=False)
FLOW = Abilities(
    name="mnist-flow-class",
    sizes=(28,),
    default_size=28,
    conditioning="label",
    process="flow",
    num_timesteps=1000,
    num_classes=10,
)
SD_XS = Abilities(
    name="sd-xs",
    sizes=(48,),
    default_size=48,
    conditioning="text",
    process="diffusion",
    num_timesteps=1000,
    latent=True,
    step=4,
    text_layers=2,
    adapters=("yellowed",),
    nets=("canny",),
)
SD15 = replace(SD_XS, name="sd15", sizes=(512,), default_size=512, step=8, text_layers=12, sampler="pndm")
LATENT = ("latent.yaml", "guidance.yaml", "control.yaml", "styles.yaml")  # for models of latents
OTHERS = {"mnist.yaml": FLOW, "course.yaml": IF, "illusions.yaml": IF}  # those that are for no embedded model
OTHERS |= dict.fromkeys(LATENT, SD_XS)
COURSE = {  # the figures of the course, and how many rows each has
    "1.0-steps": 24, "1.1-forward": 3, "1.2-blur": 3, "1.3-one-step": 3, "1.4-iterative": 6, "1.4-comparison": 12,
    "1.5-samples": 5, "1.6-guided": 5, "1.7-photos": 18, "1.7.1-web-and-drawings": 18, "1.7.2-inpainting": 3,
    "1.7.3-text": 18, "1.8-anagrams": 2, "1.9-hybrids": 3,
}  # fmt: skip
TWINS = {"course.yaml": 10}  # its comparison shows again what three figures before it have shown
PROMPTS = {  # of the course, as far as its figures ask them
    "an oil painting of a snowy mountain village", "a photo of the amalfi coast", "a photo of a man",
    "an oil painting of people around a campfire", "an oil painting of an old man", "a lithograph of waterfalls",
    "a lithograph of a skull", "a man wearing a hat", "a high quality photo", "a rocket ship",
    "long-stemmed flowers strewn on the hood of a classic porsche",
}  # fmt: skip


@functools.cache
def tasks(name: str) -> list[Task]:
    return list(open_manifest(str(FOLDER / name), OTHERS.get(name, IF_XS)).tasks())


def views(name: str) -> set[str]:
    return {view.view for task in tasks(name) for view in getattr(task, "views", ())}


def starts(image: str) -> set[int | None]:
    sweep = (task for task in tasks("demo.yaml") if task.task == "image_to_image" and task.image == image)
    return {task.start for task in sweep}


def sources() -> Iterator[str]:
    for name in MANIFESTS:
        for task in tasks(name):
            yield from task.sources()


def test_there_is_one_of_every_format_a_person_writes() -> None:
    assert {Path(name).suffix for name in MANIFESTS} == {".csv", ".jsonl", ".yaml"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_its_model_can_do_every_row(name: str) -> None:
    manifest = open_manifest(str(FOLDER / name), OTHERS.get(name, IF_XS))
    assert manifest.rows == len(list(manifest.tasks())) > 0


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_readme_says_how_many_rows_there_are(name: str) -> None:
    assert f"| `{name}` | {len(tasks(name))} |" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", sorted({*LATENT, *MANIFESTS} - {"mnist.yaml", "course.yaml", "illusions.yaml"}))
def test_the_embedded_model_knows_every_word(name: str) -> None:
    prompts = [text for task in tasks(name) for text in (*task.prompts(), task.negative_prompt)]
    known = painted_scenes.vocabulary() if name in LATENT else painted_digits.vocabulary()
    assert {word for prompt in prompts for word in prompt.split()} <= set(known)


@pytest.mark.parametrize("name", [*LATENT, "solvers.yaml"])
def test_what_is_for_latents_runs_unchanged_on_models_of_other_sizes(name: str) -> None:
    for model in (SD_XS, SD15):
        found = list(open_manifest(str(FOLDER / name), model).tasks())
        assert len({json.dumps(task.canonical()) for task in found}) == len(found)
        assert all(task.size is None and task.width is None for task in found)


def test_the_tour_of_latents_has_every_task_solver_and_word() -> None:
    tour = tasks("latent.yaml")
    assert {task.task for task in tour} == set(TASKS) - {"anagram", "hybrid", "upscale", "forward", "text_to_video"}
    assert {task.sampler for task in tour} == {None, *SAMPLERS["diffusion"]}
    words = {name for task in tour for name in task.canonical()}
    later = "guidance_interval guidance_rescale reuse clip_skip strength spacing karras resample"
    assert set(later.split()) <= words
    assert {task.negative_prompt for task in tour} >= {"", "red", "on white", "small"}


def test_guidance_goes_from_1_to_20_over_prompts_and_seeds() -> None:
    swept = tasks("guidance.yaml")
    axes = [{getattr(task, name) for task in swept} for name in ("prompt", "guidance", "seed")]
    assert (min(axes[1]), max(axes[1])) == (1, 20) and len(swept) == len(axes[0]) * len(axes[1]) * len(axes[2])
    assert all(wish_of(prompt) for prompt in axes[0]), "the judge can tell"


def test_rows_with_the_adapter_have_twins_without_it() -> None:
    found = [task.canonical() for task in tasks("styles.yaml")]
    plain = [row for row in found if "adapters" not in row]
    styled = [{name: value for name, value in row.items() if name != "adapters"} for row in found if "adapters" in row]
    assert plain and styled and all(row in plain for row in styled)
    assert {row["adapters"][0]["scale"] for row in found if "adapters" in row} == {0.3, 0.6, 1, 1.2}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_picture_is_there_and_every_mask_fits_its_image(name: str) -> None:
    for task in tasks(name):
        shapes = {path: decode((FOLDER / path).read_bytes(), path).shape for path in task.sources()}
        assert all(height == width for height, width, _ in shapes.values()), shapes
        if task.task == "inpaint":
            assert shapes[task.mask] == shapes[task.image], task.id


def test_every_mask_is_black_and_white_and_has_both() -> None:
    masks = sorted(FOLDER.glob("inputs/mask-*.png"))
    assert masks
    for path in masks:
        assert np.unique(decode(path.read_bytes(), path.name, "L")).tolist() == [0, 255], path.name


def test_no_input_is_left_over_and_all_are_small() -> None:
    files = {f"inputs/{path.name}": path.stat().st_size for path in FOLDER.glob("inputs/*")}
    assert set(sources()) == set(files)
    assert sum(files.values()) < 600_000


def test_the_demo_shows_every_task_component_and_most_views() -> None:
    demo = tasks("demo.yaml")
    components = {part.component for task in demo for part in getattr(task, "components", ())}
    assert len(demo) >= 48
    assert {task.task for task in demo} == set(TASKS) - {"text_to_video"}
    assert components == set(COMPONENTS)
    assert len(views("demo.yaml")) >= 8


def test_the_demo_sweeps_over_starts_and_guidance() -> None:
    wanted = {1, 3, 5, 7, 10, 20}
    assert wanted <= starts("inputs/seven-red-on-white.png")
    assert wanted <= starts("inputs/hand-drawn-three.png")
    assert {1, 3, 7, 12} <= {task.guidance for task in tasks("demo.yaml") if task.task == "text_to_image"}


def test_the_demo_has_duplicates_an_inverse_hybrid_and_a_resample() -> None:
    demo = tasks("demo.yaml")
    asked = [task.canonical() for task in demo]
    assert len(asked) - len({str(row) for row in asked}) == 1
    assert any(part.image for task in demo for part in getattr(task, "components", ()))
    assert any(getattr(task, "resample", None) for task in demo)


def test_mnist_has_200_rows_without_duplicates_and_every_task_that_makes_a_digit() -> None:
    asked = tasks("mnist.yaml")
    assert len(asked) == len({str(task.canonical()) for task in asked}) == 200
    assert {task.task for task in asked} == set(TASKS) - {"text_to_video", "upscale", "forward", "denoise"}
    turned = [task for task in asked if task.task == "anagram" and task.views[1].view == "rotate_180"]
    assert [branch.label for branch in turned[0].views] == [6, 9]
    assert {task.label for task in asked if task.task == "text_to_image"} == set(range(10))


def test_all_views_are_shown_somewhere() -> None:
    assert set().union(*map(views, MANIFESTS)) == set(VIEWS)


@pytest.mark.parametrize("name", ["course.yaml", "illusions.yaml"])
@pytest.mark.parametrize("model", [IF, replace(IF_XS, scorer=False)], ids=lambda model: model.name)
def test_what_is_for_if_runs_unchanged_on_models_of_other_sizes(name: str, model: Abilities) -> None:
    found = list(open_manifest(str(FOLDER / name), model).tasks())
    assert {task.size for task in found} <= set(model.sizes[:2])
    assert len({json.dumps(task.canonical()) for task in found}) == len({task.id for task in found}) - TWINS.get(
        name, 0
    )


def test_the_course_has_every_figure() -> None:
    course = tasks("course.yaml")
    assert Counter(task.id.split("/")[0] for task in course) == COURSE
    assert {prompt for task in course for prompt in task.prompts()} == PROMPTS
    figures = {name: [task for task in course if task.id.startswith(f"{name}/")] for name in COURSE}
    assert {(t.steps, t.size, t.seed) for t in figures["1.0-steps"]} == {
        (steps, size, 101) for steps in (20, 50, 100) for size in (64, 256)
    }
    assert {t.timestep for t in figures["1.1-forward"]} == {250, 500, 750}
    assert {t.until for t in figures["1.4-iterative"]} == {690, 540, 390, 240, 90, None}
    assert {(t.task, t.canonical().get("method"), t.timestep) for t in figures["1.4-comparison"]} == {
        (*way, timestep)
        for way in (("forward", None), ("denoise", "blur"), ("denoise", "one_step"), ("denoise", "iterative"))
        for timestep in (250, 500, 750)
    }
    assert [{t.guidance for t in figures[name]} for name in ("1.5-samples", "1.6-guided")] == [{1}, {7}]
    for name in ("1.7-photos", "1.7.1-web-and-drawings", "1.7.3-text"):
        assert {t.start for t in figures[name]} == {1, 3, 5, 7, 10, 20}
        assert len({t.image for t in figures[name]}) == 3


def test_the_illusions_go_beyond_the_course() -> None:
    found = tasks("illusions.yaml")
    assert {3, 4} <= {len(task.views) for task in found if task.task == "anagram"}
    parts = [part for task in found for part in getattr(task, "components", ())]
    assert {part.component for part in parts} == set(COMPONENTS) - {"whole"}
    assert any(part.image for part in parts) and any(part.view for part in parts)


def test_best_of_needs_a_scorer() -> None:
    with pytest.raises(ManifestError, match="give one with --scorer"):
        open_manifest(str(FOLDER / "best_of.yaml"), replace(IF_XS, scorer=False))
