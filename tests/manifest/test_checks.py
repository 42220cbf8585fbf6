from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from darkroom.manifest import Abilities, ManifestError, check, open_manifest
from darkroom.manifest.abilities import as_read
from darkroom.manifest.capabilities import misfits
from darkroom.manifest.tasks import TextToImage, parse_task
from darkroom.models.catalog import abilities, open_model
from darkroom.sampling.video import Video
from darkroom.sampling.views import VIEWS, make_view

TEXT = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True)
LABEL = Abilities("digits", (28,), 28, "label", "flow", 1000, num_classes=10)
PLAIN = Abilities("plain", (28,), 28, "none", "diffusion", 200)

ALL_TASKS = "text_to_image, text_to_video, image_to_image, inpaint, anagram, hybrid, upscale, forward, denoise"
ALL_SAMPLERS = (
    "'sampler' must be one of 'ddpm', 'ddim', 'euler', 'euler_ancestral', 'dpmpp_2m', 'dpmpp_2m_sde', 'unipc', 'pndm', "
    "'heun' or 'midpoint', "
)
GOOD = {"task": "text_to_image", "prompt": "a red seven"}
FORWARD = {"task": "forward", "image": "a.png", "timestep": 250}
DENOISE = {"task": "denoise", "image": "a.png", "timestep": 750}
X = {"prompt": "x"}
PAINT = {"task": "inpaint", "prompt": "a red seven", "image": "a.png", "mask": "m.png"}


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def problems(path: Path, rows: list[dict[str, object]], abilities: Abilities = TEXT) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        open_manifest(write(path / "jobs.jsonl", rows), abilities)
    return [problem.removeprefix("jobs.jsonl ") for problem in caught.value.problems]


def misfit(row: dict[str, object], abilities: Abilities = TEXT) -> list[str]:
    return list(misfits(parse_task(row), abilities))


CLIP = Video(frames=49, compression=4, step=8, fps=8, guidance=6.0)
VIDEO = Abilities("cogvideox", (720,), 720, "text", "diffusion", 1000, latent=True, step=16, video=CLIP)
FILMED = {"task": "text_to_video", "prompt": "a"}


@pytest.mark.parametrize(
    ("row", "abilities", "why"),
    [
        (FILMED, TEXT, "'if-xs' makes pictures: text_to_video needs a model of videos, such as CogVideoX or Wan"),
        ({"prompt": "a"}, VIDEO, "the task is text_to_image, and 'cogvideox' makes videos from text alone"),
        ({"task": "anagram", "views": [{"view": "negate", "prompt": "a"}]}, VIDEO, "the task is anagram, and"),
        ({"task": "inpaint", "image": "a.png", "mask": "b.png", "prompt": "a"}, VIDEO, "the task is inpaint, and"),
        (
            FILMED | {"frames": 48},
            VIDEO,
            "'frames' must be one more than a multiple of 8 .* 48: 41 or 49 would do",
        ),
        (
            FILMED | {"frames": 105},
            VIDEO,
            "'frames' must be at most 97, twice what .*, was 105",
        ),
        (FILMED | {"width": 720, "height": 470}, VIDEO, "'height' must be a multiple of 16 .*: 464 or 480 would do"),
        (FILMED | {"guidance_2": 3}, VIDEO, "'guidance_2' is of the second of two models"),
    ],
)
def test_videos_are_for_models_of_videos(row: dict[str, object], abilities: Abilities, why: str) -> None:
    (found,) = misfit(row, abilities)
    assert re.search(why, found), found


def test_rows_of_videos_that_fit() -> None:
    for frames in (1, 9, 49, 97):
        assert misfit(FILMED | {"frames": frames, "width": 720, "height": 480}, VIDEO) == []
    assert misfit(FILMED | {"guidance_2": 3}, replace(VIDEO, experts=True)) == []
    as_said = as_read(dict(FILMED), VIDEO.sizes, usual=VIDEO.usual)
    assert parse_task(as_said).canonical()["steps"] == 50 and as_said["guidance"] == 6
    assert as_read({**FILMED, "stride": 20, "guidance": 1}, (720,), usual=VIDEO.usual) == {
        **FILMED, "stride": 20, "guidance": 1,
    }  # fmt: skip


LATENT = Abilities("sd", (512,), 512, "text", "diffusion", 1000, latent=True)
BANDS = [{"component": "low_pass", "prompt": "a"}, {"component": "high_pass", "prompt": "b"}]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"task": "anagram", "views": [{"view": "negate", "prompt": "a"}]}, "the views of an anagram rearrange pixels"),
        ({"task": "hybrid", "components": BANDS}, "the components of a hybrid are made of pixels"),
        (FORWARD, "'forward' shows a picture with noise on its pixels"),
        (DENOISE | {"method": "blur"}, "the method 'blur' blurs pixels"),
    ],
)
def test_what_speaks_of_pixels_is_refused_where_the_model_works_on_latents(row: dict, why: str) -> None:
    (said,) = misfit(row, LATENT)
    assert said.startswith(f"{why}, and 'sd' works on latents: it needs a model of pixels")
    assert not any("latents" in sentence for sentence in misfit(row))


def test_what_speaks_of_pictures_is_made_on_latents() -> None:
    for row in (GOOD, PAINT, DENOISE | {"method": "iterative", **X}, GOOD | {"task": "image_to_image"}):
        given = row | ({"image": "a.png", "strength": 0.5} if row["task"] == "image_to_image" else {})
        assert misfit(given, LATENT) == []


OF_SOLVERS = [
    (GOOD | {"sampler": "plms"}, ALL_SAMPLERS + "was 'plms', did you mean 'pndm'?"),
    (GOOD | {"steps": 9, "karras": 1}, "'karras' must be true or false, was 1"),
    (GOOD | {"spacing": "trailing"}, "'spacing' says where so many 'steps' stand, this row has none"),
    (GOOD | {"karras": True, "stride": 9}, "'karras' says where so many 'steps' stand, this row has 'stride'"),
    (
        GOOD | {"steps": 9, "karras": True, "sampler": "pndm"},
        "'karras' is for the samplers euler, euler_ancestral, dpmpp_2m, dpmpp_2m_sde, unipc, this row has 'pndm'",
    ),
    (
        GOOD | {"steps": 9, "karras": True},
        "'karras' is for the samplers euler, euler_ancestral, dpmpp_2m, dpmpp_2m_sde, unipc, the model's own is 'ddpm'",
    ),
    (
        GOOD | {"steps": 1000, "sampler": "unipc"},
        "steps must lie between 1 and one less than the model's 1000, that is 999 timesteps; got 1000",
    ),
    (
        PAINT | {"sampler": "unipc", "resample": {"jump": 2, "times": 2}},
        "resample: the sampler 'unipc' corrects a state by the one before it, which resampling has noised anew: "
        "give another, such as dpmpp_2m",
    ),
    (GOOD | {"guidance_interval": [0.5, 0.2]}, "'guidance_interval' must not end before it begins, was [0.5, 0.2]"),
    (GOOD | {"guidance_rescale": 2}, "'guidance_rescale' must be at most 1, was 2"),
    (
        {"task": "anagram", "views": [{"view": "identity", "prompt": "x"}], "reduction": "alternate", "reuse": 2},
        "'reuse' is for the reduction 'mean', this row has 'alternate'",
    ),
    (
        DENOISE | {"method": "iterative", "prompt": "x", "steps": 9, "karras": True, "sampler": "euler"},
        "'spacing' and 'karras' are for rows that begin with noise, 'denoise' begins at its 'timestep'",
    ),
]
MISTAKES = [
    ({"task": "text_to_image", "promt": "x", "prompt": "y"}, "unknown key 'promt', which text_to_image does not take"),
    ({"task": "text_to_image", "promt": "x"}, "unknown key 'promt', did you mean 'prompt'?"),
    (GOOD | {"mask": "m.png"}, "unknown key 'mask', which text_to_image does not take"),
    (GOOD | {"seed": -1}, "'seed' must be at least 0, was -1"),
    (GOOD | {"seed": "seven"}, "'seed' must be a number, was 'seven'"),
    (GOOD | {"seed": 1.5}, "'seed' must be a whole number, was 1.5"),
    (GOOD | {"guidance": 1000}, "'guidance' must be at most 100, was 1000"),
    (GOOD | {"prompt": 7}, "'prompt' must be text, was 7"),
    (GOOD | {"id": "a\tb"}, "'id' must not hold control characters, was 'a\\tb'"),
    (
        GOOD | {"sampler": "dimm"},
        ALL_SAMPLERS + "was 'dimm', did you mean 'ddim'?",
    ),
    (GOOD | {"steps": 10, "stride": 30}, "'steps' and 'stride' are given, wanted at most one of them"),
    (GOOD | {"task": "text_imge"}, "unknown task 'text_imge', did you mean 'text_to_image'?"),
    (GOOD | {"task": 3}, f"unknown task 3, wanted one of {ALL_TASKS}"),
    (GOOD | {"task": "txt2img"}, "unknown task 'txt2img', did you mean 'text_to_image'?"),
    ({"prompt": "x", "mask": "m.png"}, f"'task' is missing, wanted one of {ALL_TASKS}"),
    (GOOD | {"size": 64}, "the size 64 is not one the model 'if-xs' makes: 24, 48"),
    (GOOD | {"label": 3}, "'prompt' and 'label' are both given, wanted one of them"),
    ({"task": "text_to_image"}, "'prompt' is missing, the model 'if-xs' takes a prompt"),
    (
        GOOD | {"sampler": "heun"},
        "the sampler 'heun' does not fit the diffusion model 'if-xs', which takes ddpm, ddim, euler, euler_ancestral, "
        "dpmpp_2m, dpmpp_2m_sde, unipc or pndm",
    ),
    ({"task": "image_to_image", "prompt": "x", "start": 1}, "'image' is missing"),
    (
        {"task": "image_to_image", "prompt": "x", "image": "a.png", "start": 35},
        "'start' is an index into a schedule of 34 steps, was 35",
    ),
    (
        PAINT | {"resample": {"jump": 10, "tims": 2, "times": 1}},
        "resample: unknown key 'tims', which inpaint does not take",
    ),
    (PAINT | {"resample": {"jump": 10, "tims": 2}}, "resample: unknown key 'tims', did you mean 'times'?"),
    (PAINT | {"resample": {"jump": 0, "times": 1}}, "resample: 'jump' must be at least 1, was 0"),
    (PAINT | {"resample": 3}, "'resample' must be a mapping, was 3"),
    ({"task": "anagram", "views": []}, "'views' must not be empty, was []"),
    ({"task": "anagram", "views": {"view": "skew"}}, "'views' must be a list, was {'view': 'skew'}"),
    ({"task": "anagram", "views": ["skew"]}, "view 1: must be a mapping, was 'skew'"),
    (
        {"task": "anagram", "views": [{"view": "skew", "prompt": "x"}, {"view": "skew", "promt": "x"}]},
        "view 2: unknown key 'promt', did you mean 'prompt'?",
    ),
    ({"task": "anagram", "views": [{"view": "skew", "prompt": 3}]}, "view 1: 'prompt' must be text, was 3"),
    ({"task": "anagram", "views": [{"view": "skew"}]}, "view 1: 'prompt' is missing, the model 'if-xs' takes a prompt"),
    (
        {"task": "hybrid", "components": [{"component": "whole", "view": 3, "prompt": "x"}]},
        "component 1: 'view' must be a view's name, or a view and its parameters, was 3",
    ),
    (GOOD | {"best_of": 65}, "'best_of' must be at most 64, was 65"),
    (GOOD | {"best_of": 4}, "'best_of' is 4, and there is no scorer to choose by: give one with --scorer"),
    (GOOD | {"size": "stage3"}, "the size 'stage3' is not one the model makes: stage1 (24 px), stage2 (48 px)"),
    (GOOD | {"size": "stage 2"}, "'size' must be a number, was 'stage 2'"),
    (GOOD | {"stage3": {"steps": 3}}, "'stage3' is given, the model 'if-xs' has 2 stages"),
    (
        GOOD | {"stage2": {"steps": 3}, "size": "stage1"},
        "'stage2' is given, a picture of 24 px never reaches it: it makes 48 px",
    ),
    (GOOD | {"stage2": {"stepps": 3}}, "stage2: unknown key 'stepps', did you mean 'steps'?"),
    (GOOD | {"stage2": {"noise_level": 1000}}, "stage2: 'noise_level' must be at most 999, was 1000"),
    (FORWARD | {"size": 48}, "the size 48 is not one that forward is made at: it is the first stage's, 24"),
    (FORWARD | {"timestep": 1000}, "'timestep' must be at most 999, was 1000"),
    (FORWARD | {"prompt": "x"}, "unknown key 'prompt', which forward does not take"),
    (
        DENOISE | {"method": "blurr"},
        "'method' must be one of 'blur', 'one_step' or 'iterative', was 'blurr', did you mean 'blur'?",
    ),
    (DENOISE | {"method": "one_step"}, "'prompt' is missing, the model 'if-xs' takes a prompt"),
    (DENOISE | {"method": "blur", "until": 540}, "'until' is for the method 'iterative', this row has 'blur'"),
    (
        DENOISE | {"method": "iterative", "prompt": "x", "until": 530},
        "'until' must be a time of the schedule below 750, the nearest: 540 and 510; was 530",
    ),
    (
        DENOISE | {"method": "iterative", "prompt": "x", "until": 1000},
        "'until' must be less than 1000, was 1000",
    ),
]


@pytest.mark.parametrize(
    ("row", "sentence"), MISTAKES + OF_SOLVERS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_one_mistake_one_sentence(tmp_path: Path, row: dict[str, object], sentence: str) -> None:
    assert problems(tmp_path, [row]) == [f"line 1: {sentence}"]


def test_unknown_views_and_components_are_named_with_the_nearest(tmp_path: Path) -> None:
    views = [{"view": "flip_vertcal", "prompt": "x"}, {"view": "patch_permute", "sed": 3, "prompt": "x"}]
    components = [{"component": "low_pas", "prompt": "x"}, {"component": "high_pass", "prompt": "x", "sgma": 2}]
    found = problems(tmp_path, [{"task": "anagram", "views": views}, {"task": "hybrid", "components": components}])
    nearest = ["flip_vertical", "seed", "low_pass", "sigma"]
    places = ["line 1: view 1: ", "line 1: view 2: ", "line 2: component 1: ", "line 2: component 2: "]
    assert len(found) == 4
    for sentence, place, name in zip(found, places, nearest, strict=True):
        assert sentence.startswith(place)
        assert f"did you mean '{name}'?" in sentence


def test_all_problems_of_a_manifest_are_in_one_message(tmp_path: Path) -> None:
    rows = [GOOD, *(row for row, _ in MISTAKES), GOOD | {"id": "a"}, GOOD | {"id": "a"}]
    path = write(tmp_path / "jobs.jsonl", rows)
    with Path(path).open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ManifestError) as caught:
        open_manifest(path, TEXT)
    wanted = [f"jobs.jsonl line {line}: {sentence}" for line, (_, sentence) in enumerate(MISTAKES, 2)]
    last = len(rows)
    wanted.append(f"jobs.jsonl line {last}: the id 'a' is given twice, first in jobs.jsonl line {last - 1}")
    assert len(wanted) > 10
    assert caught.value.problems[:-1] == wanted
    assert caught.value.problems[-1].startswith(f"jobs.jsonl line {last + 1}: not a JSON object: ")
    for problem in caught.value.problems:
        assert problem in str(caught.value)


def test_a_row_with_several_mistakes_names_each(tmp_path: Path) -> None:
    assert problems(tmp_path, [{"task": "upscale", "seed": -1, "size": "big", "prompt": 3}]) == [
        "line 1: 'prompt' must be text, was 3",
        "line 1: 'seed' must be at least 0, was -1",
        "line 1: 'size' must be a number, was 'big'",
        "line 1: 'image' is missing",
    ]


def test_a_task_that_is_none_hides_no_other_mistake(tmp_path: Path) -> None:
    wrong = {"prompt": "x", "cfg_scale": 7, "seed": -1, "num_images": 4}
    beside = [
        "line 1: 'seed' must be at least 0, was -1",
        "line 1: unknown key 'cfg_scale', did you mean 'guidance'?",
        "line 1: unknown key 'num_images': a row is one picture, so give one for each 'seed'",
    ]
    assert problems(tmp_path, [wrong]) == beside, "a prompt alone needs no task"
    assert problems(tmp_path, [{"task": "generate", "strength": 0.5} | wrong]) == [
        f"line 1: unknown task 'generate', wanted one of {ALL_TASKS}",
        *beside,
    ]
    meant = [{"task": "img2img", "strength": 0.5, "foo": 1} | wrong]
    assert problems(tmp_path, meant) == [
        "line 1: unknown task 'img2img', did you mean 'image_to_image'?",
        beside[0],
        "line 1: 'image' is missing",
        "line 1: unknown key 'foo', which image_to_image does not take",
        *beside[1:],
    ]
    assert problems(tmp_path, [{"label": 3, "foo": 1}])[1] == "line 1: unknown key 'foo', which no task takes"


def test_the_message_lists_fifty_and_counts_the_rest(tmp_path: Path) -> None:
    found = problems(tmp_path, [GOOD | {"seed": -seed} for seed in range(1, 121)])
    assert len(found) == 120
    lines = str(ManifestError(found)).splitlines()
    assert len(lines) == 52
    assert lines[0] == "the manifest has 120 problems:"
    assert lines[1] == "  line 1: 'seed' must be at least 0, was -1"
    assert lines[-1] == "  ... and 70 more"


def test_a_flood_of_one_problem_is_one_line(tmp_path: Path) -> None:
    rows = [GOOD] + [{"task": "text_to_image", "promt": "x"}] * 1000 + [GOOD | {"seed": -1}] * 3
    assert problems(tmp_path, rows) == [
        "line 2: unknown key 'promt', did you mean 'prompt'? (so in 999 more places, the last is jobs.jsonl line 1001)",
        "line 1002: 'seed' must be at least 0, was -1",
        "line 1003: 'seed' must be at least 0, was -1",
        "line 1004: 'seed' must be at least 0, was -1",
    ]


def test_duplicate_ids_name_both_places(tmp_path: Path) -> None:
    rows = [GOOD | {"id": name} for name in ("a", "b", "c", "b", "c", "c")]
    assert problems(tmp_path, rows) == [
        "line 4: the id 'b' is given twice, first in jobs.jsonl line 2",
        "line 5: the id 'c' is given 3 times, first in jobs.jsonl line 3",
    ]


def test_what_kind_of_question_a_model_takes() -> None:
    assert misfit({"task": "text_to_image", "label": 3}) == [
        "'prompt' is missing, the model 'if-xs' takes a prompt",
        "'label' is given, the model 'if-xs' takes a prompt",
    ]
    assert misfit({"task": "text_to_image", "label": 9}, LABEL) == []
    assert misfit({"task": "text_to_image", "label": 10, "negative_prompt": "x"}, LABEL) == [
        "'label' must be below 10, the classes of 'digits', was 10",
        "'negative_prompt' is given, the model 'digits' takes a label",
    ]
    assert misfit({"task": "text_to_image"}, PLAIN) == []
    assert misfit(GOOD, PLAIN) == ["'prompt' is given, the model 'plain' takes neither prompt nor label"]


def test_component_held_to_an_image_needs_no_prompt() -> None:
    held, asked = {"component": "low_pass", "image": "a.png"}, {"component": "high_pass"}
    assert misfit({"task": "hybrid", "components": [held, asked | {"prompt": "x"}]}) == []
    assert misfit({"task": "hybrid", "components": [held, asked]}) == [
        "component 2: 'prompt' is missing, the model 'if-xs' takes a prompt"
    ]


def test_schedules_are_held_against_the_model() -> None:
    assert misfit({"task": "text_to_image", "steps": 201}, PLAIN) == [
        "steps must lie between 1 and the model's 200 timesteps; got 201"
    ]
    assert len(misfit({"task": "text_to_image", "timesteps": "fast27"}, PLAIN)) == 1
    (unknown,) = misfit(GOOD | {"timesteps": "fast72"})
    assert "fast27" in unknown
    edit = {"task": "image_to_image", "label": 3, "image": "a.png"}
    assert misfit(edit | {"start": 34}, LABEL) == []
    assert misfit(edit | {"start": 11, "steps": 10}, LABEL) == [
        "'start' is an index into a schedule of 10 steps, was 11"
    ]
    assert misfit(edit | {"start": 1, "timesteps": "fast27"}, LABEL) == [
        "'timesteps' names a diffusion schedule, 'digits' is a flow model: give 'steps'"
    ]


def test_jumps_must_fit_into_what_is_walked() -> None:
    assert misfit(PAINT | {"resample": {"jump": 33, "times": 2}}) == []
    assert misfit(PAINT | {"resample": {"jump": 34, "times": 2}}) == [
        "resample: 'jump' must be at most 33, as 34 steps are taken and the last is never repeated, was 34"
    ]
    assert misfit(PAINT | {"resample": {"jump": 10, "times": 2}, "start": 23}) == []
    assert len(misfit(PAINT | {"resample": {"jump": 10, "times": 2}, "start": 24})) == 1
    assert len(misfit(PAINT | {"resample": {"jump": 20, "times": 2}, "strength": 0.5})) == 1


def test_upscaling_needs_a_stage_and_a_larger_size() -> None:
    row = {"task": "upscale", "prompt": "x", "image": "a.png"}
    assert misfit(row) == []
    assert misfit(row | {"size": 24}) == ["the size 24 is not one the model 'if-xs' upscales to: 48"]
    row = {"task": "upscale", "label": 3, "image": "a.png"}
    assert misfit(row, LABEL) == ["the model 'digits' has no stage that could upscale"]


def test_the_tasks_of_a_noised_picture_fit_every_model() -> None:
    assert misfit(FORWARD) == misfit(FORWARD, LABEL) == []
    assert misfit(FORWARD | {"size": 28}, LABEL) == []
    assert misfit(DENOISE | {"method": "blur"}, LABEL) == []
    assert misfit(DENOISE | {"method": "one_step", "label": 3}, LABEL) == []
    assert misfit(FORWARD | {"timestep": 750}, PLAIN) == [
        "'timestep' must be below 200, the timesteps of 'plain', was 750"
    ]
    down = DENOISE | {"method": "iterative", "label": 3, "steps": 10}
    assert misfit(down | {"until": 200}, LABEL) == []
    assert misfit(down | {"until": 210}, LABEL) == [
        "'until' must be a time of the schedule below 750, the nearest: 300 and 200; was 210"
    ]


TOO_SMALL = [
    (
        {"task": "anagram", "views": [{"view": "patch_permute", "pieces": 100, "prompt": "x"}]},
        "view 1: 'patch_permute' cuts 100 pieces a side and takes pictures of 100 px or more, "
        "and this row is made at 24 and 48 px",
    ),
    (
        {"task": "anagram", "size": 24, "views": [{"view": "square_hinge", "pieces": 30, "prompt": "x"}]},
        "view 1: 'square_hinge' cuts 30 pieces a side and takes pictures of 30 px or more, "
        "and this row is made at 24 px",
    ),
    (
        {"task": "hybrid", "components": [{"component": "whole", "view": {"view": "square_hinge", "pieces": 30}} | X]},
        "component 1: 'square_hinge' cuts 30 pieces a side and takes pictures of 30 px or more, "
        "and this row is made at 24 and 48 px",
    ),
]


@pytest.mark.parametrize(("row", "sentence"), TOO_SMALL, ids=lambda value: value if isinstance(value, str) else "")
def test_views_need_room_at_every_stage(row: dict[str, object], sentence: str) -> None:
    assert misfit(row) == [sentence]


@pytest.mark.parametrize("name", [name for name in VIEWS if "pieces" in inspect.signature(VIEWS[name]).parameters])
def test_what_fits_is_what_can_be_shown(name: str) -> None:
    """The check and the view are of one mind, at every size and just below it."""
    for pieces in (2, 5, 28, 29):
        row = {"task": "anagram", "views": [{"view": name, "pieces": pieces, "label": 3}]}
        view, picture = make_view(name, pieces=pieces), torch.zeros(1, 1, 28, 28)
        if misfit(row, LABEL):
            with pytest.raises(ValueError, match="takes pictures of 29 px or more"):
                view.apply(picture)
        else:
            assert view.apply(picture).shape == picture.shape


def test_settings_of_a_stage_must_reach_it() -> None:
    assert misfit(GOOD | {"stage2": {"steps": 3}}) == [], "48 px is the model's own size"
    assert abilities(open_model("if-xs")).starts == (0, 9)
    late = replace(TEXT, starts=(0, 4))
    assert misfit(GOOD | {"stage2": {"steps": 4}}, late) == misfit(GOOD | {"stage2": {"guidance": 1}}, late) == []
    assert misfit(GOOD | {"stage2": {"steps": 3}}, late) == [
        "stage2: 'steps' must be at least 4, as the stage starts after so many, was 3"
    ]
    assert misfit({"task": "text_to_image", "label": 3, "stage2": {"steps": 3}}, LABEL) == [
        "'stage2' is given, the model 'digits' has one stage"
    ]


def test_best_of_with_a_scorer() -> None:
    assert misfit(GOOD | {"best_of": 4}, dataclasses.replace(TEXT, scorer=True)) == []


def test_sizes_by_stage_are_pixels_in_every_key(tmp_path: Path) -> None:
    words = [GOOD | {"size": "stage1"}, GOOD | {"size": "stage2"}]
    manifest = open_manifest(write(tmp_path / "jobs.jsonl", words), TEXT)
    assert [task.canonical()["size"] for task in manifest.tasks()] == [24, 48]
    large = dataclasses.replace(TEXT, sizes=(64, 256, 1024), default_size=64)
    manifest = open_manifest(write(tmp_path / "jobs.jsonl", words), large)
    assert [task.size for task in manifest.tasks()] == [64, 256]


def words(prompt: str) -> int:
    return len(prompt.split()) + 1


def test_prompts_that_are_too_long_are_warned_of_by_row(tmp_path: Path) -> None:
    counted = []

    def count(prompt: str) -> int:
        counted.append(prompt)
        return words(prompt)

    able = dataclasses.replace(TEXT, prompt_tokens=count, max_tokens=5)
    long, blur = "one two three four five", DENOISE | {"method": "blur", "prompt": "a b c d e f"}
    view = [{"view": "identity", "prompt": "short"}, {"view": "negate", "prompt": long}]
    rows = [GOOD | {"prompt": long}, GOOD, {"task": "anagram", "views": view}, blur, GOOD | {"negative_prompt": long}]
    manifest = open_manifest(write(tmp_path / "jobs.jsonl", rows), able)
    sentence = f"the prompt '{long}' has 6 tokens, of which the model reads the first 5"
    assert manifest.warnings[:-1] == tuple(f"jobs.jsonl line {line}: {sentence}" for line in (1, 3, 5))
    assert manifest.warnings[-1].startswith("1 row begins with a picture: one that is not square is cut")
    assert sorted(counted) == sorted({long, "a red seven", "short", ""}), "each once, and none that is not asked"
    assert manifest.rows == 5


def test_a_flood_of_long_prompts_is_few_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.manifest.problems.KEPT_TEXTS", 20)
    able = dataclasses.replace(TEXT, prompt_tokens=words, max_tokens=2)
    rows = [GOOD | {"prompt": f"a long {number % 50}"} for number in range(500)]
    warnings = open_manifest(write(tmp_path / "jobs.jsonl", rows), able).warnings
    assert len(warnings) == 21
    assert warnings[0].endswith("(so in 9 more places, the last is jobs.jsonl line 451)")
    assert warnings[-1] == "and 300 warnings that were not kept"


def test_check_yields_the_good_rows_and_raises_at_the_end(tmp_path: Path) -> None:
    tasks = check(write(tmp_path / "jobs.jsonl", [GOOD, GOOD | {"seed": -1}, GOOD | {"seed": 2}]), TEXT)
    assert [next(tasks).seed, next(tasks).seed] == [0, 2]
    with pytest.raises(ManifestError, match="has 1 problem:"):
        next(tasks)


def test_open_manifest_counts_and_reads_again(tmp_path: Path) -> None:
    uri = write(tmp_path / "jobs.jsonl", [GOOD, PAINT, GOOD | {"seed": 2}])
    manifest = open_manifest(uri, TEXT)
    assert (manifest.uri, manifest.base, manifest.rows) == (uri, str(tmp_path), 3)
    assert manifest.by_task == {"text_to_image": 2, "inpaint": 1}
    assert [task.task for task in manifest.tasks()] == ["text_to_image", "inpaint", "text_to_image"]
    assert list(manifest.tasks(limit=1)) == [TextToImage(prompt="a red seven")]


def test_a_manifest_changed_after_its_check_is_refused(tmp_path: Path) -> None:
    uri = write(tmp_path / "jobs.jsonl", [GOOD])
    manifest = open_manifest(uri, TEXT)
    write(tmp_path / "jobs.jsonl", [GOOD, GOOD])
    with pytest.raises(ManifestError, match="changed after it was checked"):
        list(manifest.tasks())


def test_manifests_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n")
    with pytest.raises(ManifestError, match=r"jobs\.jsonl: the manifest has no rows"):
        open_manifest(str(path), TEXT)
    with pytest.raises(ManifestError, match=r"none\.yaml: could not read .*/none\.yaml: nothing is there"):
        open_manifest(str(tmp_path / "none.yaml"), TEXT)
    with pytest.raises(ManifestError, match=r"none\.yaml: could not read .*/none\.yaml: nothing is there"):
        list(check(str(tmp_path / "none.yaml"), TEXT))


def test_the_base_of_relative_paths_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "jobs.jsonl", [GOOD])
    monkeypatch.chdir(tmp_path)
    assert open_manifest("jobs.jsonl", TEXT).base == str(tmp_path)


def test_the_error_survives_a_trip_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ManifestError(["a", "b"])))
    assert error.problems == ["a", "b"]
    assert str(error) == "the manifest has 2 problems:\n  a\n  b"
