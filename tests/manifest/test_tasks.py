from __future__ import annotations

import hashlib
import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from darkroom.manifest.csv_files import NESTED_FIELDS, SWITCHES, TEXT_FIELDS
from darkroom.manifest.tasks import TASKS, Hybrid, TextToImage, parse_task, row_key
from darkroom.sampling.schedules import SAMPLERS

ANAGRAM = {
    "task": "anagram",
    "views": [{"view": "identity", "prompt": "a red six"}, {"view": "rotate_180", "prompt": "a red nine"}],
}
HYBRID = {
    "task": "hybrid",
    "components": [
        {"component": "low_pass", "prompt": "a red six", "sigma": 2},
        {"component": "high_pass", "prompt": "a red nine", "sigma": 2},
    ],
}
ROWS = [
    {"task": "text_to_image", "prompt": "a red seven", "steps": 50, "size": 48},
    {"task": "text_to_image", "label": 7},
    {"task": "text_to_image"},
    {"task": "image_to_image", "prompt": "a red seven", "image": "inputs/a.png", "start": 10},
    {"task": "image_to_image", "prompt": "a red seven", "image": "inputs/a.png", "strength": 0.5},
    {"task": "inpaint", "prompt": "", "image": "a.png", "mask": "m.png", "resample": {"jump": 10, "times": 3}},
    ANAGRAM,
    HYBRID,
    {
        "task": "upscale",
        "prompt": "a red seven",
        "image": "a.png",
        "timesteps": "fast27",
        "sampler": "ddim",
        "eta": 0.5,
    },
    {"task": "text_to_image", "prompt": "a", "best_of": 8, "stage2": {"steps": 20}, "stage3": {"noise_level": 10.0}},
    {"task": "forward", "image": "a.png", "timestep": 250},
    {"task": "denoise", "image": "a.png", "timestep": 750, "method": "blur", "sigma": 3},
    {"task": "denoise", "image": "a.png", "timestep": 750, "method": "one_step", "prompt": "a red seven"},
    {"task": "denoise", "image": "a.png", "timestep": 750, "method": "iterative", "label": 3, "until": 540},
]


def key(row: dict[str, object]) -> str:
    return row_key(parse_task(row), "revision", "1")


def test_canonical_fills_in_defaults_and_leaves_out_what_has_no_say() -> None:
    task = TextToImage(id="mine", prompt="a red seven")
    assert task.canonical() == {
        "task": "text_to_image",
        "prompt": "a red seven",
        "seed": 0,
        "stride": 30,
        "guidance": 7,
        "negative_prompt": "",
    }


def test_eta_has_a_say_only_with_ddim() -> None:
    assert "eta" not in TextToImage(sampler="ddpm", eta=0).canonical()
    assert TextToImage(sampler="ddim").canonical()["eta"] == 0
    with pytest.raises(ValidationError, match="'eta' is for the sampler 'ddim', this row has 'ddpm'"):
        TextToImage(sampler="ddpm", eta=0.5)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["task"])
def test_canonical_form_is_a_row_that_asks_for_the_same(row: dict[str, object]) -> None:
    canonical = parse_task(row).canonical()
    assert parse_task(canonical).canonical() == canonical
    assert key(canonical) == key(row)


def test_canonical_form_fills_in_the_parameters_of_views_and_components() -> None:
    bare = {"task": "hybrid", "components": [{"component": "low_pass"}, {"component": "high_pass"}]}
    filled = parse_task(bare).canonical()
    assert [part["sigma"] for part in filled["components"]] == [2, 2]
    jigsaw = {"task": "anagram", "views": [{"view": "patch_permute", "label": 3}]}
    assert parse_task(jigsaw).canonical()["views"][0]["seed"] == 0


def test_a_default_that_changed_is_another_key_and_what_was_given_keeps_its_own() -> None:
    names, given = ("low_band", "middle_band", "high_band"), {"coarse": 2, "fine": 1, "kernel": 33, "nested": False}
    silent = parse_task({"task": "hybrid", "components": [{"component": name} for name in names]}).canonical()
    spoken = parse_task({"task": "hybrid", "components": [{"component": name} | given for name in names]}).canonical()
    assert spoken["components"] == [{"component": name} | given for name in names]
    assert silent["components"] == [{"component": name} | given | {"kernel": 25, "nested": True} for name in names]
    assert key(silent) != key(spoken)
    moved = parse_task({"task": "hybrid", "components": [{"component": "motion"}, {"component": "motion_residual"}]})
    assert [part["edges"] for part in moved.canonical()["components"]] == ["zeros", "zeros"]


def test_prompts_and_sources_in_branch_order() -> None:
    assert parse_task(ANAGRAM).prompts() == ["a red six", "a red nine"]
    assert parse_task(ANAGRAM).sources() == []
    assert parse_task(ROWS[1]).prompts() == []
    assert parse_task(ROWS[5]).prompts() == [""]
    assert parse_task(ROWS[5]).sources() == ["a.png", "m.png"]


PAINT = {"task": "inpaint", "prompt": "", "image": "a.png", "mask": "m.png"}


def test_words_that_came_later_leave_the_keys_of_other_rows_as_they_were() -> None:
    assert not {"fit", "mask_value", "empty_mask", "full_mask"} & {
        word for row in ROWS for word in parse_task(row).canonical()
    }
    assert key(PAINT) == key({**PAINT, "fit": "crop", "empty_mask": "fail", "full_mask": "flag", "mask_value": None})
    words = [{"fit": "pad"}, {"fit": "stretch"}, {"mask_value": 3}, {"empty_mask": "flag"}, {"full_mask": "fail"}]
    assert len({key(PAINT | more) for more in [{}, *words]}) == 6
    assert key(PAINT | {"mask_value": 3}) == key(PAINT | {"mask_value": [3]}) != key(PAINT | {"mask_value": [3, 4]})
    canonical = parse_task(PAINT | {"mask_value": 3}).canonical()
    assert canonical["mask_value"] == [3] and parse_task(canonical).canonical() == canonical


def test_fit_is_for_rows_that_begin_with_a_picture() -> None:
    assert parse_task({**HYBRID, "fit": "pad"}).canonical() == parse_task(HYBRID).canonical()
    with pytest.raises(ValidationError):
        parse_task({"task": "text_to_image", "prompt": "a", "fit": "pad"})


def test_component_held_to_an_image_asks_nothing() -> None:
    low, high = {"component": "low_pass", "image": "near.png"}, {"component": "high_pass", "prompt": "a red nine"}
    task = parse_task({"task": "hybrid", "components": [low, high]})
    assert task.prompts() == ["a red nine"]
    assert task.sources() == ["near.png"]
    with pytest.raises(ValidationError, match="takes no prompt and no label"):
        parse_task({"task": "hybrid", "components": [low | {"prompt": "both"}, high]})
    with pytest.raises(ValidationError, match="at most one component may be held to an 'image', 2 are"):
        parse_task({"task": "hybrid", "components": [low, {"component": "high_pass", "image": "far.png"}]})


def test_components_must_sum_to_the_identity() -> None:
    with pytest.raises(ValidationError, match="low_pass"):
        parse_task({"task": "hybrid", "components": [{"component": "low_pass"}, {"component": "color"}]})


def test_key_is_the_digest_of_the_canonical_json() -> None:
    text = (
        '[{"guidance":7,"negative_prompt":"","prompt":"a red seven","seed":0,"stride":30,"task":"text_to_image"},'
        '"revision","1"]'
    )
    assert key({"task": "text_to_image", "prompt": "a red seven"}) == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_key_does_not_tell_7_from_7_0_nor_an_id_from_another() -> None:
    assert key(ROWS[0] | {"guidance": 7, "seed": 3}) == key(ROWS[0] | {"guidance": 7.0, "seed": 3.0, "id": "other"})
    two = [part | {"sigma": 2.0} for part in HYBRID["components"]]
    assert key(HYBRID) == key(HYBRID | {"components": two})


def test_words_that_say_what_was_meant_anyway_leave_the_key() -> None:
    for word in (
        {"guidance_interval": None},
        {"guidance_rescale": 0.0},
        {"reuse": 1},
        {"true_guidance": 1},
        {"spacing": None},
        {"karras": None},
    ):
        assert key(BARE | word) == key(BARE)
    assert key(BARE | {"guidance_interval": [0, 1]}) != key(BARE), "which may be less with a model's own"
    given = {"steps": 9, "sampler": "unipc", "spacing": "trailing", "karras": True, "guidance_interval": [0.1, 0.8]}
    canonical = parse_task(BARE | given).canonical()
    assert {name: canonical[name] for name in given} == given and parse_task(canonical).canonical() == canonical


def test_key_depends_on_model_and_sampler() -> None:
    task = TextToImage(prompt="a red seven")
    assert len({row_key(task, "a", "1"), row_key(task, "b", "1"), row_key(task, "a", "2")}) == 3


def test_only_what_was_mended_has_another_key() -> None:
    """Alternating by interval is another picture for solvers of two moves alone; all others keep their key."""
    views = [{"view": "identity", "label": 3}, {"view": "negate", "label": 4}]
    for sampler in ("euler", "ddim", "heun", "midpoint"):
        for reduction in ("mean", "alternate"):
            task = parse_task({"task": "anagram", "views": views, "reduction": reduction, "sampler": sampler})
            mended = reduction == "alternate" and sampler in ("heun", "midpoint")
            parts = [task.canonical(), "r", "1", *["alternates by interval"] * mended]
            text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
            assert row_key(task, "r", "1") == hashlib.sha256(text.encode()).hexdigest()[:32], (sampler, reduction)


CHANGES = {
    "seed": st.integers(1, 2**63 - 1),
    "steps": st.integers(1, 1000),
    "stride": st.integers(1, 29) | st.integers(31, 999),
    "timesteps": st.sampled_from(["fast27", "smart50"]),
    "guidance": st.floats(0, 100).filter(lambda value: value != 7),
    "negative_prompt": st.text(st.characters(codec="utf-8"), min_size=1),
    "size": st.integers(1, 1024),
    "sampler": st.sampled_from(sorted({name for names in SAMPLERS.values() for name in names})),
    "guidance_interval": st.tuples(st.just(0.0), st.floats(0, 0.9)),
    "guidance_rescale": st.floats(0.01, 1),
    "reuse": st.integers(2, 10),
    "true_guidance": st.floats(1.01, 100),
    "prompt": st.text(st.characters(codec="utf-8")).filter(lambda text: text != "a red seven"),
}


@settings(deadline=None)
@given(st.sampled_from(sorted(CHANGES)).flatmap(lambda name: st.tuples(st.just(name), CHANGES[name])))
def test_a_changed_parameter_changes_the_key(change: tuple[str, object]) -> None:
    row = {"task": "text_to_image", "prompt": "a red seven"}
    assert key(row | dict([change])) != key(row)


@settings(deadline=None)
@given(st.sampled_from(ROWS).flatmap(lambda row: st.permutations(list(row.items()))))
def test_key_does_not_depend_on_key_order(items: list[tuple[str, object]]) -> None:
    assert key(dict(items)) == key(dict(sorted(items)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 2**63},
        {"seed": True},
        {"seed": "7"},
        {"seed": 1.5},
        {"steps": 0},
        {"stride": 1000},
        {"steps": 10, "stride": 30},
        {"guidance": float("nan")},
        {"guidance": 101},
        {"guidance": 10**400},
        {"label": 3},
        {"id": ""},
        {"id": "a\nb"},
        {"id": "x" * 201},
        {"prompt": "\ud800"},
        {"sampler": "plms"},
        {"spacing": "trailing"},
        {"spacing": "leading", "stride": 30},
        {"karras": True},
        {"karras": "true", "steps": 9},
        {"guidance_interval": [0.5]},
        {"guidance_interval": [0.5, 0.2]},
        {"guidance_interval": [0, 1.5]},
        {"guidance_rescale": 1.5},
        {"reuse": 0},
        {"reuse": 11},
        {"eta": 0.1},
        {"image": "a.png"},
    ],
    ids=str,
)
def test_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse_task({"task": "text_to_image", "prompt": "a red seven"} | wrong)


BARE = {"task": "text_to_image", "prompt": "a red seven"}


@pytest.mark.parametrize("more", [{"best_of": 1}, {"stage2": {}}, {"stage2": {}, "stage3": {}}], ids=str)
def test_what_asks_for_nothing_new_leaves_the_key_as_it_was(more: dict[str, object]) -> None:
    assert key(BARE | more) == key(BARE)


@pytest.mark.parametrize(
    "more",
    [{"best_of": 2}, {"stage2": {"steps": 20}}, {"stage2": {"guidance": 4}}, {"stage3": {"guidance": 4}}],
    ids=str,
)
def test_what_asks_for_more_has_a_key_of_its_own(more: dict[str, object]) -> None:
    assert key(BARE | more) != key(BARE)
    assert {name: parse_task(BARE | more).canonical()[name] for name in more} == more, "only what was given"


@pytest.mark.parametrize("wrong", [{"best_of": 0}, {"best_of": 65}, {"stage2": 3}, {"stage2": {"seed": 3}}], ids=str)
def test_candidates_and_stages_are_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse_task(BARE | wrong)


@pytest.mark.parametrize("task", ["forward", "denoise", "upscale"])
def test_best_of_is_for_what_is_drawn_from_noise(task: str) -> None:
    more = {"forward": {"timestep": 1}, "denoise": {"timestep": 1, "method": "one_step"}, "upscale": {}}[task]
    with pytest.raises(ValidationError, match="best_of"):
        parse_task({"task": task, "image": "a.png", "best_of": 2, **more})


def test_forward_says_nothing_that_only_a_model_hears() -> None:
    row = {"task": "forward", "image": "a.png", "timestep": 250.0, "guidance": 3, "steps": 9, "sampler": "ddim"}
    assert parse_task(row).canonical() == {"task": "forward", "image": "a.png", "timestep": 250, "seed": 0}
    assert (parse_task(row).prompts(), parse_task(row).sources()) == ([], ["a.png"])


def test_of_each_way_to_denoise_what_has_a_say() -> None:
    row = {"task": "denoise", "image": "a.png", "timestep": 750, "prompt": "a red seven"}
    common = {"task": "denoise", "image": "a.png", "timestep": 750, "seed": 0}
    asked = common | {"prompt": "a red seven", "guidance": 7, "negative_prompt": ""}
    assert parse_task(row | {"method": "blur"}).canonical() == common | {"method": "blur", "sigma": 2}
    assert parse_task(row | {"method": "one_step"}).canonical() == asked | {"method": "one_step"}
    assert parse_task(row | {"method": "iterative"}).canonical() == asked | {"method": "iterative", "stride": 30}
    assert parse_task(row | {"method": "blur"}).prompts() == []


@pytest.mark.parametrize(("name", "method"), [("sigma", "iterative"), ("sigma", "one_step"), ("until", "blur")])
def test_a_parameter_of_another_method_is_refused(name: str, method: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is for the method '.*', this row has '{method}'"):
        parse_task({"task": "denoise", "image": "a.png", "timestep": 750, "method": method, name: 2})


def hybrid_through(view: object) -> dict[str, object]:
    low, high = HYBRID["components"]
    return {"task": "hybrid", "components": [low | {"view": view}, high]}


def test_a_components_view_is_a_name_or_a_mapping() -> None:
    named = parse_task(hybrid_through("jigsaw")).canonical()
    assert named["components"][0]["view"] == "jigsaw"
    assert key(hybrid_through({"view": "jigsaw", "seed": 0})) == key(hybrid_through("jigsaw"))
    other = parse_task(hybrid_through({"view": "jigsaw", "seed": 5})).canonical()
    assert other["components"][0]["view"] == {"view": "jigsaw", "seed": 5}
    assert parse_task(other).canonical() == other
    for wrong in (3, {"view": "jigsaw", "sed": 3}, {"seed": 3}, "jigsw"):
        with pytest.raises(ValidationError, match="view"):
            parse_task(hybrid_through(wrong))


def test_start_and_strength() -> None:
    row = {"task": "image_to_image", "image": "a.png"}
    with pytest.raises(ValidationError, match="neither is given"):
        parse_task(row)
    with pytest.raises(ValidationError, match="both are given"):
        parse_task(row | {"start": 1, "strength": 0.5})


def test_tasks_are_frozen_and_hashable() -> None:
    task = parse_task(HYBRID)
    assert isinstance(task, Hybrid)
    assert len({task, parse_task(HYBRID)}) == 1
    assert len({parse_task(hybrid_through({"view": "jigsaw", "seed": 5})) for _ in range(2)}) == 1
    with pytest.raises(ValidationError, match="frozen"):
        task.seed = 3


def test_a_task_comes_back_from_its_dump() -> None:
    for row in ROWS:
        task = parse_task(row)
        assert parse_task(task.model_dump()) == task


def holds(annotation: object, *wanted: type) -> bool:
    return annotation in wanted or any(holds(part, *wanted) for part in get_args(annotation))


def test_text_fields_of_a_csv_are_those_of_the_tasks() -> None:
    fields = {name: field.annotation for task in TASKS.values() for name, field in task.model_fields.items()}
    numbers = {name for name, annotation in fields.items() if holds(annotation, int, float)}
    assert set(fields) - numbers - NESTED_FIELDS - SWITCHES == TEXT_FIELDS


@pytest.mark.parametrize("row", [ROWS[0], ANAGRAM, HYBRID], ids=lambda row: row["task"])
def test_the_last_candidates_seed_is_an_int64_too(row: dict[str, object]) -> None:
    largest = 2**63 - 8
    assert parse_task(row | {"best_of": 8, "seed": largest}).seed == largest
    assert parse_task(row | {"seed": 2**63 - 1}).seed == 2**63 - 1
    with pytest.raises(ValidationError, match=f"'seed' must be at most {largest} where 'best_of' is 8"):
        parse_task(row | {"best_of": 8, "seed": 2**63 - 1})
