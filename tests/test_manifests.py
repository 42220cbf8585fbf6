"""The manifests that ship: whole, within their model's abilities, and showing what they promise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from darkroom.manifest import TASKS, Abilities, Task, open_manifest
from darkroom.manifest.readers import READERS
from darkroom.sampling.components import COMPONENTS
from darkroom.sampling.views import VIEWS
from darkroom.storage.images import decode
from darkroom.training.painted_digits import vocabulary

FOLDER = Path(__file__).parents[1] / "manifests"
MANIFESTS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in READERS)
IF_XS = Abilities(
    name="if-xs",
    sizes=(24, 48),
    default_size=24,
    conditioning="text",
    process="diffusion",
    num_timesteps=1000,
    upscale=True,
)
FLOW = Abilities(
    name="mnist-flow-class",
    sizes=(28,),
    default_size=28,
    conditioning="label",
    process="flow",
    num_timesteps=1000,
    num_classes=10,
)
OTHERS = {"mnist.yaml": FLOW}  # manifests that are not for the embedded model


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


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_embedded_model_knows_every_word(name: str) -> None:
    prompts = [text for task in tasks(name) for text in (*task.prompts(), task.negative_prompt)]
    assert {word for prompt in prompts for word in prompt.split()} <= set(vocabulary())


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
    assert sum(files.values()) < 60_000


def test_the_demo_shows_every_task_component_and_most_views() -> None:
    demo = tasks("demo.yaml")
    components = {part.component for task in demo for part in getattr(task, "components", ())}
    assert len(demo) >= 48
    assert {task.task for task in demo} == set(TASKS)
    assert components == set(COMPONENTS)
    assert len(views("demo.yaml")) >= 8


def test_the_demo_sweeps_over_starts_and_guidance() -> None:
    wanted = {1, 3, 5, 7, 10, 20}
    assert wanted <= starts("inputs/seven-red-on-white.png")
    assert wanted <= starts("inputs/hand-drawn-three.png")
    assert {1, 3, 7, 12} <= {task.guidance for task in tasks("demo.yaml") if task.task == "text_to_image"}


def test_the_demo_has_twins_an_inverse_hybrid_and_a_resample() -> None:
    demo = tasks("demo.yaml")
    asked = [task.canonical() for task in demo]
    assert len(asked) - len({str(row) for row in asked}) == 1
    assert any(part.image for task in demo for part in getattr(task, "components", ()))
    assert any(getattr(task, "resample", None) for task in demo)


def test_mnist_has_200_rows_without_twins_and_every_task_that_makes_a_digit() -> None:
    asked = tasks("mnist.yaml")
    assert len(asked) == len({str(task.canonical()) for task in asked}) == 200
    assert {task.task for task in asked} == set(TASKS) - {"upscale", "forward", "denoise"}
    turned = [task for task in asked if task.task == "anagram" and task.views[1].view == "rotate_180"]
    assert [branch.label for branch in turned[0].views] == [6, 9]
    assert {task.label for task in asked if task.task == "text_to_image"} == set(range(10))


def test_all_views_are_shown_somewhere() -> None:
    assert set().union(*map(views, MANIFESTS)) == set(VIEWS)
