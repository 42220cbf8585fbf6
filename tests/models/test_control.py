"""Control networks answer as diffusers' control pipelines do, given the same noise; rows without keep their bits."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from torch import Tensor

from darkroom.batch.capacity import empty_pass
from darkroom.models import sd_xs
from darkroom.models.catalog import open_model
from darkroom.models.compiled import compiled, mode_in_use
from darkroom.models.control import StoredNet
from darkroom.models.errors import ModelError
from darkroom.models.hub import Repository
from darkroom.models.predictors import UNetPredictor
from darkroom.sampling import noise
from darkroom.sampling.latent_inputs import to_latents
from darkroom.sampling.plans import Plan, condition_keys, make_plan
from darkroom.sampling.run import walk_plans
from darkroom.sampling.stage import Inputs
from models.test_stable_diffusion import (
    ASKED,
    CPU,
    DRAWING,
    IMAGE,
    MASKED,
    PLAIN,
    PROMPTS,
    SEED,
    SIDE,
    START,
    STEPS,
    assert_same,
    mask,
    picture,
)
from toy_control import net, save_net
from toy_sd import unet
from toys import make_row

MODULES = {
    "StableDiffusionControlNetPipeline": "pipeline_controlnet",
    "StableDiffusionControlNetImg2ImgPipeline": "pipeline_controlnet_img2img",
    "StableDiffusionControlNetInpaintPipeline": "pipeline_controlnet_inpaint",
    "StableDiffusionXLControlNetPipeline": "pipeline_controlnet_sd_xl",
    "StableDiffusionXLControlNetImg2ImgPipeline": "pipeline_controlnet_sd_xl_img2img",
    "StableDiffusionXLControlNetInpaintPipeline": "pipeline_controlnet_inpaint_sd_xl",
}
WHOLE = {"scale": 1.0, "start": 0.0, "end": 1.0}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("nets")
    return {
        "a": save_net(folder / "a"),
        "b": save_net(folder / "b", seed=1),
        "xl": save_net(folder / "xl", "sdxl"),
    }


def hint(seed: int) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 2, (SIDE, SIDE, 1), dtype=np.uint8)
    return Image.fromarray(np.broadcast_to(255 * levels, (SIDE, SIDE, 3)).copy())


HINTS = {"a": hint(5), "b": hint(6), "xl": hint(7)}


def plans_of(folder: str, nets: dict[str, str], rows: Sequence[dict[str, Any]]) -> tuple[Any, list[Plan]]:
    model = open_model(folder).controlled([StoredNet.at(name, place) for name, place in nets.items()])
    (stage,), predictor = model.stages, model.predictor(1, CPU)
    keys = list(dict.fromkeys(key for row in rows for key in condition_keys(row, stage)))
    embedded = dict(zip(keys, model.text_encoder(CPU).encode(keys), strict=True))
    given = torch.from_numpy(np.array(picture())).permute(2, 0, 1).float() / 127.5 - 1
    painted = torch.from_numpy(np.array(mask()))[None] >= 128

    def plan(row: dict[str, Any]) -> Plan:
        used = {use["net"] for use in row.get("control", ())}
        inputs = Inputs(
            {key: model.fields_of(1, one) for key, one in embedded.items()},
            image=given if "image" in row else None,
            mask=painted if "mask" in row else None,
            hints={net.name: tensor(HINTS[net.name]) for net in model.nets if net.name in used},
        )
        return make_plan(row, stage, to_latents(inputs, row, stage, predictor.latents.encode))

    return predictor, [plan(row) for row in rows]


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def latents_of(folder: str, nets: dict[str, str], *rows: dict[str, Any], capacity: int = 4) -> list[Tensor]:
    predictor, plans = plans_of(folder, nets, rows)
    return [finished.image for finished in walk_plans(predictor, plans, capacity)]


def theirs(kind: str, folder: str, monkeypatch: pytest.MonkeyPatch, nets: Sequence[str], *draws: Any) -> Any:
    """diffusers' pipeline with these networks, which draws the row's own noise."""
    order = iter([*draws, *((noise.STEP, step) for step in range(STEPS))])

    def draw(shape: Any, **_: Any) -> Tensor:
        return torch.from_numpy(noise.normal(SEED, 1, *next(order), tuple(shape[1:])))[None]

    for module in [*DRAWING, f"diffusers.pipelines.controlnet.{MODULES[kind]}"]:
        monkeypatch.setattr(importlib.import_module(module), "randn_tensor", draw)
    loaded = [ControlNetModel.from_pretrained(place) for place in nets]
    more = {"add_watermarker": False} if "XL" in kind else {"safety_checker": None, "requires_safety_checker": False}
    made = getattr(diffusers, kind).from_pretrained(
        folder, controlnet=loaded[0] if len(loaded) == 1 else loaded, **more, **PLAIN
    )
    settled = {} if "XL" in kind else {"steps_offset": 1}  # which the pipelines without control see to themselves
    made.scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler", **settled)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize(("scale", "guess"), [(1.0, False), (0.6, False), (0.8, True)])
def test_text_to_image_by_one_network(
    toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch, scale: float, guess: bool
) -> None:
    pipe = theirs("StableDiffusionControlNetPipeline", f"{toy_sd}/sd", monkeypatch, [nets["a"]], START)
    more = {"controlnet_conditioning_scale": scale, "guess_mode": guess, "output_type": "latent"}
    wanted = pipe(**ASKED, image=HINTS["a"], **more).images[0]
    row = make_row("text_to_image", **PROMPTS, sampler="ddim", control=[WHOLE | {"net": "a", "scale": scale}])
    (ours,) = latents_of(f"{toy_sd}/sd", {"a": nets["a"]}, row | {"guess_mode": guess})
    assert_same(ours, wanted)
    (without,) = latents_of(f"{toy_sd}/sd", {}, make_row("text_to_image", **PROMPTS, sampler="ddim"))
    assert (ours - without).abs().max() > 0.01 * wanted.abs().max(), "it has a say"


def test_text_to_image_by_two_networks_each_for_a_part_of_the_way(
    toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = theirs("StableDiffusionControlNetPipeline", f"{toy_sd}/sd", monkeypatch, [nets["a"], nets["b"]], START)
    more = {"control_guidance_start": [0.0, 0.3], "control_guidance_end": [0.5, 1.0], "output_type": "latent"}
    hints = {"image": [HINTS["a"], HINTS["b"]], "controlnet_conditioning_scale": [0.7, 1.2]}
    wanted = pipe(**ASKED, **hints, **more).images[0]
    uses = [{"net": "b", "scale": 1.2, "start": 0.3, "end": 1.0}, {"net": "a", "scale": 0.7, "start": 0.0, "end": 0.5}]
    row = make_row("text_to_image", **PROMPTS, sampler="ddim", control=uses)
    (ours,) = latents_of(f"{toy_sd}/sd", {"a": nets["a"], "b": nets["b"]}, row)
    assert_same(ours, wanted)


def test_guess_mode_with_no_words(toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both questions have the same text, and the networks answer one of them."""
    pipe = theirs("StableDiffusionControlNetPipeline", f"{toy_sd}/sd", monkeypatch, [nets["a"]], START)
    empty = {"prompt": "", "negative_prompt": ""}
    wanted = pipe(**ASKED | empty, image=HINTS["a"], guess_mode=True, output_type="latent").images[0]
    use = [WHOLE | {"net": "a"}]
    row = make_row("text_to_image", **PROMPTS | empty, sampler="ddim", control=use, guess_mode=True)
    assert_same(latents_of(f"{toy_sd}/sd", nets | {"xl": nets["b"]}, row)[0], wanted)


def test_image_to_image(toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = theirs("StableDiffusionControlNetImg2ImgPipeline", f"{toy_sd}/sd", monkeypatch, [nets["a"]], IMAGE, START)
    window = {"control_guidance_start": 0.2, "control_guidance_end": 0.8, "controlnet_conditioning_scale": 0.8}
    given = {"image": picture(), "control_image": HINTS["a"], "strength": 0.7, "output_type": "latent"}
    wanted = pipe(**ASKED, **given, **window).images[0]
    use = {"net": "a", "scale": 0.8, "start": 0.2, "end": 0.8}
    row = make_row("image_to_image", **PROMPTS, sampler="ddim", strength=0.7, image="a.png", control=[use])
    assert_same(latents_of(f"{toy_sd}/sd", {"a": nets["a"]}, row)[0], wanted)


@pytest.mark.parametrize(("kind", "draws"), [("sd", (IMAGE, START, MASKED)), ("inpaint", (IMAGE, START, MASKED))])
def test_inpainting(toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, draws: Any) -> None:
    pipe = theirs("StableDiffusionControlNetInpaintPipeline", f"{toy_sd}/{kind}", monkeypatch, [nets["a"]], *draws)
    given = {"image": picture(), "mask_image": mask(), "control_image": HINTS["a"], "strength": 0.6}
    wanted = pipe(**ASKED, **given, controlnet_conditioning_scale=0.9, output_type="latent").images[0]
    row = make_row("inpaint", **PROMPTS, sampler="ddim", strength=0.6, image="a.png", mask="m.png")
    row["control"] = [WHOLE | {"net": "a", "scale": 0.9}]
    assert_same(latents_of(f"{toy_sd}/{kind}", {"a": nets["a"]}, row)[0], wanted)


def test_sdxl(toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = theirs("StableDiffusionXLControlNetPipeline", f"{toy_sd}/sdxl", monkeypatch, [nets["xl"]], START)
    more = {"controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.7, "output_type": "latent"}
    wanted = pipe(**ASKED, image=HINTS["xl"], **more).images[0]
    use = {"net": "xl", "scale": 0.8, "start": 0.0, "end": 0.7}
    row = make_row("text_to_image", **PROMPTS, sampler="ddim", control=[use])
    assert_same(latents_of(f"{toy_sd}/sdxl", {"xl": nets["xl"]}, row)[0], wanted)


def test_sdxl_begins_with_a_picture(toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "StableDiffusionXLControlNetImg2ImgPipeline"
    pipe = theirs(kind, f"{toy_sd}/sdxl", monkeypatch, [nets["xl"]], IMAGE, START)
    given = {"image": picture(), "control_image": HINTS["xl"], "strength": 0.7, "output_type": "latent"}
    wanted = pipe(**ASKED, **given, controlnet_conditioning_scale=0.8, guess_mode=True).images[0]
    row = make_row("image_to_image", **PROMPTS, sampler="ddim", strength=0.7, image="a.png", guess_mode=True)
    row["control"] = [WHOLE | {"net": "xl", "scale": 0.8}]
    assert_same(latents_of(f"{toy_sd}/sdxl", {"xl": nets["xl"]}, row)[0], wanted)


def test_sdxl_paints_in(toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "StableDiffusionXLControlNetInpaintPipeline"
    pipe = theirs(kind, f"{toy_sd}/sdxl", monkeypatch, [nets["xl"]], IMAGE, START, MASKED)
    given = {"image": picture(), "mask_image": mask(), "control_image": HINTS["xl"], "strength": 0.6}
    given |= {"controlnet_conditioning_scale": 0.5, "height": SIDE, "width": SIDE, "output_type": "latent"}
    wanted = pipe(**ASKED, **given).images[0]
    row = make_row("inpaint", **PROMPTS, sampler="ddim", strength=0.6, image="a.png", mask="m.png")
    row["control"] = [WHOLE | {"net": "xl", "scale": 0.5}]
    assert_same(latents_of(f"{toy_sd}/sdxl", {"xl": nets["xl"]}, row)[0], wanted)


def test_pndm_counts_the_time_that_it_asks_twice(
    toy_sd: str, nets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = theirs("StableDiffusionControlNetPipeline", f"{toy_sd}/sd", monkeypatch, [nets["a"]], START)
    own = dict(pipe.scheduler.config)
    pipe.scheduler = diffusers.PNDMScheduler.from_config(own, skip_prk_steps=True)
    window = {"control_guidance_start": 0.2, "control_guidance_end": 0.6}
    wanted = pipe(**ASKED, image=HINTS["a"], **window, output_type="latent").images[0]
    use = {"net": "a", "scale": 1.0, "start": 0.2, "end": 0.6}
    row = make_row("text_to_image", **PROMPTS, sampler="pndm", control=[use])
    assert_same(latents_of(f"{toy_sd}/sd", {"a": nets["a"]}, row)[0], wanted)


def test_rows_keep_their_bits_whatever_is_beside_them(toy_sd: str, nets: dict[str, str]) -> None:
    own = {"a": nets["a"], "b": nets["b"]}
    plain = make_row("text_to_image", **PROMPTS, sampler="ddim")

    def row(*uses: dict[str, Any], **more: Any) -> dict[str, Any]:
        return plain | {"control": [WHOLE | use for use in uses], **more}

    a, b = {"net": "a"}, {"net": "b"}
    rows = [
        plain,
        row(a),
        row(a | {"scale": 0.5}, seed=3, steps=5),
        row(a | {"start": 0.5}, sampler="dpmpp_2m"),
        row(a, guess_mode=True),
        row(a, b | {"scale": 0.3}),
        row(b, task="image_to_image", image="a.png", strength=0.5),
        row(a | {"scale": 0.0}),
        row(a, b | {"scale": 0.0}),
        row(a | {"start": 0.97}),
    ]
    predictor, plans = plans_of(f"{toy_sd}/sd", own, rows)
    together = [finished.image for finished in walk_plans(predictor, plans, 4)]
    for number, plan in enumerate(plans):
        (alone,) = walk_plans(predictor, [plan], 4)
        assert torch.equal(alone.image, together[number]), rows[number]
    base = latents_of(f"{toy_sd}/sd", {}, plain)[0]
    for number in (0, 7, 9):
        assert torch.equal(together[number], base), "what has no say changes no bit"
    assert torch.equal(together[8], together[1])
    assert len({image.numpy().tobytes() for image in together}) == 7


@pytest.mark.slow
def test_it_is_compiled_as_the_model_is(toy_sd: str, nets: dict[str, str]) -> None:
    predictor, plans = plans_of(f"{toy_sd}/sd", {"a": nets["a"]}, [make_row("text_to_image", **PROMPTS | {"steps": 2})])
    row = make_row("text_to_image", **PROMPTS | {"steps": 2}, control=[WHOLE | {"net": "a"}])
    plans += plans_of(f"{toy_sd}/sd", {"a": nets["a"]}, [row])[1]
    fast = compiled(predictor, "default", "eager")
    for ours, wanted in zip(walk_plans(fast, plans, 4), walk_plans(predictor, plans, 4), strict=True):
        torch.testing.assert_close(ours.image, wanted.image)
    assert (fast.notes, mode_in_use(fast), mode_in_use(fast.controlled(("a",)))) == ([], "default", "default")


def test_in_half_precision_it_answers_about_the_same(toy_sd: str, nets: dict[str, str]) -> None:
    model = open_model(f"{toy_sd}/sd", control={"a": nets["a"]})
    given = [torch.randn(2, 4, 8, 8), torch.tensor([3.0, 900.0]), torch.randn(2, 77, 16), torch.zeros(2).long()]
    given += [torch.rand(2, 1, 3, SIDE, SIDE), torch.tensor([[1.0, 0.0], [0.5, 1.0]])]
    with torch.inference_mode():
        whole, half = (model.predictor(1, CPU, dtype).controlled(("a",))(*given) for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.float32 and 0 < (half - whole).abs().max() < 0.1 * whole.abs().max()


def test_a_share_of_nothing_changes_no_bit_of_a_pass(toy_sd: str, nets: dict[str, str]) -> None:
    predictor, (plan,) = plans_of(f"{toy_sd}/sd", {"a": nets["a"]}, [make_row("text_to_image", **PROMPTS)])
    generator = torch.Generator().manual_seed(1)
    x, times = torch.randn(4, 4, 8, 8, generator=generator), torch.tensor([1.0, 50.0, 900.0, 400.0])
    told = [torch.stack([plan.told("a red one")[name]] * 4) for name in predictor.fields]
    hints = torch.rand(4, 1, 3, SIDE, SIDE, generator=generator)
    shares = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.7, 1.0]])
    asked = predictor.controlled(("a",))
    assert asked.fields == (*predictor.fields, "hints")
    found, base = asked(x, times, *told, hints, shares), predictor(x, times, *told)
    assert [torch.equal(found[at], base[at]) for at in range(4)] == [True, False, True, False]


def test_a_fresh_network_says_nothing(toy_sd: str, tmp_path: Path) -> None:
    """Its last layers are zeros."""
    ControlNetModel.from_unet(unet("sd"), conditioning_embedding_out_channels=(8, 12, 16)).save_pretrained(tmp_path)
    row = make_row("text_to_image", **PROMPTS, sampler="ddim")
    controlled = row | {"control": [WHOLE | {"net": "a"}]}
    ours, base = latents_of(f"{toy_sd}/sd", {"a": str(tmp_path)}, controlled, row)
    assert torch.equal(ours, base)


def test_memory_counts_the_networks(toy_sd: str, nets: dict[str, str]) -> None:
    plain = open_model(f"{toy_sd}/sd")
    model = plain.controlled([StoredNet.at(name, nets[name]) for name in "ab"])
    assert [tuple(field.shape) for field in model.control_fields(1)] == [(2, 3, SIDE, SIDE), (3,)]
    own = sum(p.numel() * 4 for seed in (0, 1) for p in net(seed=seed).parameters())
    assert model.memory(1, "float32", 2).weights == plain.memory(1, "float32", 2).weights + own
    inputs = empty_pass(model.stages[0], (*model.empty_fields(1), *model.control_fields(1)), 2)
    assert model.predictor(1, CPU).controlled(("a", "b"))(*inputs).shape == (2, 4, 8, 8), "and a pass is tried with all"
    assert model.memory(1, "float32", 8).activations > plain.memory(1, "float32", 8).activations


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("xl", {}, "the control network 'a', .*, is for another model: its cross_attention_dim is 40, the model's 16"),
        ("a", {"global_pool_conditions": True}, "averaged over the picture"),
        ("a", {"conditioning_channels": 1}, "it sees 1 channels, wanted 3"),
        ("a", {"block_out_channels": [8, 8]}, r"its block_out_channels is \[8, 8\], the model's \[8, 16\]"),
        ("a", {"conditioning_embedding_out_channels": [8, 8, 8, 8]}, "a picture 8 times smaller, the model's"),
        ("a", {"_class_name": "ControlNetUnionModel"}, "is a ControlNetUnionModel: wanted a ControlNetModel"),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_are_refused(
    toy_sd: str, nets: dict[str, str], tmp_path: Path, kind: str, change: dict[str, Any], why: str
) -> None:
    shutil.copytree(nets[kind], tmp_path / "net")
    config = tmp_path / "net" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelError, match=why):
        open_model(f"{toy_sd}/sd").controlled([StoredNet.at("a", str(tmp_path / "net"))])


def test_networks_of_one_repository_are_told_apart(nets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose digest is the commit's, whatever the folder."""
    monkeypatch.setattr(Repository, "_names", ["a/config.json", "b/config.json", "config.json"])
    monkeypatch.setattr(Repository, "read", lambda self, name: (Path(nets["a"]) / name).read_bytes())
    at = "@" + "0" * 40
    found = [StoredNet.at("x", f"hf://owner/name{folder}{at}") for folder in ("", "/a", "/b")]
    assert len({net.digest for net in found}) == 3
    assert [net.address for net in found] == [f"hf://owner/name{folder}{at}" for folder in ("", "/a", "/b")]


def test_the_network_of_sd_xs_fits_its_unet(tmp_path: Path) -> None:
    base = sd_xs.build_unet()
    sd_xs.build_control(base).save_pretrained(tmp_path)
    stored = StoredNet.at("canny", str(tmp_path))
    stored.check(base.config, 4)
    predictor = UNetPredictor(base.eval(), None, CPU, nets={"canny": stored.load(CPU, "float32")})
    x, times = torch.randn(2, 4, 12, 12), torch.tensor([3.0, 900.0])
    told = (torch.randn(2, 24, 96), torch.zeros(2, dtype=torch.int64))
    with torch.inference_mode():
        found = predictor.controlled(("canny",))(x, times, *told, torch.rand(2, 1, 3, 48, 48), torch.ones(2, 2))
        assert torch.equal(found, predictor(x, times, *told)), "untrained it says nothing"


def test_what_cannot_be_controlled_or_does_not_control_is_refused(toy_sd: str, nets: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="are for Stable Diffusion and SDXL, if-xs works on pixels; 'a' given"):
        open_model("if-xs").controlled([StoredNet.at("a", nets["a"])])
    with pytest.raises(ModelError, match="holds no control network: wanted a folder with config.json"):
        StoredNet.at("a", f"{toy_sd}/sd")
