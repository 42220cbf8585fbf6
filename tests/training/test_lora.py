"""An adapter under training, on tiny models of Stable Diffusion's real classes: what is learned, kept, written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import darkroom
from darkroom.models.adapter_files import adapter_file, read_adapter
from darkroom.models.adapter_folder import save_adapter
from darkroom.models.adapters import adaptable_layers
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.sampling.diffusion import Diffusion
from darkroom.storage import open_store
from darkroom.training import lora_examples
from darkroom.training.checkpoints import load_checkpoint
from darkroom.training.feeds import Worker
from darkroom.training.ingest import ingest
from darkroom.training.lora import FIXED_PICTURES, AdapterDiffusion, _prepare, _snr_weights, adapter_loss, fixed_loss
from darkroom.training.lora_examples import NOTHING, ExamplesFeed, _numbered, _variants
from darkroom.training.lora_layers import LowRankLayers, chosen_layers
from darkroom.training.recipes.lora import Lora
from toy_sd import unet as toy_unet

ALONE = Worker(0, 1, torch.device("cpu"))
ALL = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.2")
OPTIONS: dict[str, Any] = {"rank": 2, "alpha": 4.0, "epochs": 3, "batch": 4, "learning_rate": 2e-2, "crops": 2}
OPTIONS |= {"flip": True, "drop": 0.2, "trigger": "sks", "targets": ALL, "schedule": "cosine", "warmup": 2}
OPTIONS |= {"noise_offset": 0.1, "snr_gamma": 5.0, "repeats": 2, "validation_steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five pictures of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    lines = []
    for number, size in enumerate([(40, 32), (32, 32), (64, 90), (33, 50), (20, 24)]):
        Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"a thing, number {number % 3}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    ingest("captions", str(folder), str(folder / "out"))
    return str(folder / "out")


def train(recipe: Lora, data: str, out: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    recipe.train(data, open_store(str(out)), ALONE, say)
    return out


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def trained(request: pytest.FixtureRequest, toy_sd: str, data: str, tmp_path_factory: Any) -> tuple[Lora, Path]:
    recipe = Lora(model=f"{toy_sd}/{request.param}", validation="a dog, red|a cat", **OPTIONS).settled()
    return recipe, train(recipe, data, tmp_path_factory.mktemp(request.param))


class Interrupted(Exception):
    pass


def test_interrupted_and_resumed_equals_unbroken_bit_for_bit(trained: Any, data: str, tmp_path: Path) -> None:
    recipe, unbroken = trained
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch 1/3") and "validation" in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path, say)
    train(recipe, data, tmp_path)
    for name in ("pytorch_lora_weights.safetensors", "validation/epoch-0003.png", "config.json"):
        assert (tmp_path / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_only_the_adapter_is_in_checkpoints(trained: Any) -> None:
    _, out = trained
    kept = load_checkpoint(open_store(str(out)), 3)
    layers = len(json.loads((out / "config.json").read_text())["adapter"]["targets"])
    assert layers == len(ALL) and kept.average is None
    assert {name.split(".")[0] for name in kept.weights} == {"down", "up"}
    assert all(2 in tensor.shape for tensor in kept.weights.values())


def test_it_learns_and_says_how_much(trained: Any) -> None:
    _, out = trained
    config = json.loads((out / "config.json").read_text())
    metrics = config["metrics"]
    assert metrics["validation_loss"] < 0.999 * metrics["base_loss"]
    assert (config["kind"], config["trigger"], config["adapter"]["rank"]) == ("adapter", "sks", 2)
    assert config["training"]["steps"] == 3 * (5 * 2 // 4)
    sheet = Image.open(out / "validation" / "epoch-0003.png")
    assert sheet.size == (32 + 2 + 32, 32)


def asked(unet: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    inputs = {"sample": torch.randn(2, 4, 8, 8, generator=generator), "timestep": torch.tensor([7, 801])}
    inputs["encoder_hidden_states"] = torch.randn(2, 6, unet.config.cross_attention_dim, generator=generator)
    if unet.config.addition_embed_type == "text_time":
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 12), "time_ids": torch.full((2, 6), 32.0)}
    return inputs


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_layers_add_nothing_at_first_and_their_sum_when_folded(kind: Any) -> None:
    torch.manual_seed(0)
    base = toy_unet(kind).eval().requires_grad_(False)
    unet = copy.deepcopy(base)
    layers = LowRankLayers(unet, chosen_layers(unet, ALL), 2, 6.0)
    inputs = asked(unet)
    assert torch.equal(unet(**inputs).sample, base(**inputs).sample)
    assert bool(layers.convolutions) == (kind == "sd"), "SDXL projects by linear layers"
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.3)
    for name, (down, up) in layers.folded().items():
        weight = base.get_submodule(name).weight
        weight.data += (up @ down).reshape(weight.shape)
    with torch.no_grad():
        expected = base(**inputs).sample
        assert (unet(**inputs).sample - expected).abs().max() <= 5e-6 * expected.abs().max()


def test_targets_that_nothing_is_called_by_are_told(toy_sd: str, data: str) -> None:
    with pytest.raises(
        ValueError, match=r"no layer that could be adapted ends so: 'to_qq', did you mean 'to_q'\?; there"
    ):
        chosen_layers(toy_unet("sd"), ("to_k", "to_qq"))
    record = {"name": "few", "splits": {"train": {"rows": 5}}}
    with pytest.raises(ValueError, match="few has 5 pictures, 1 times each, and a batch wants 6 of them"):
        Lora(model=f"{toy_sd}/sd", batch=6).check(record)
    with pytest.raises(ValueError, match="resolution is 30, and sd makes pictures whose sides are multiples of 4"):
        Lora(model=f"{toy_sd}/sd", resolution=30).check(record)
    with pytest.raises(ModelError, match="of Stable Diffusion 1, 2 and XL .* if-xs is none"):
        Lora(model="if-xs").check(record)
    with pytest.raises(ModelError, match="has the revision .*, and --set base=0123 was given"):
        Lora(model="sd-xs", base="0123").settled()


def test_steps_of_two_workers_are_those_of_one(toy_sd: str, data: str) -> None:
    """Of the same rows, times and noise; what they then mean over the workers, as DistributedDataParallel does, is the
    gradient of the whole batch. Nothing of the base is among what it would reduce."""
    recipe = Lora(model=f"{toy_sd}/sd", prior=3, prior_prompts="a thing|a dog", **OPTIONS).settled()
    gradients = []
    for count in (1, 2):
        found: dict[str, Tensor] = {}
        for rank in range(count):
            worker = Worker(rank, count, torch.device("cpu"))
            setting = _prepare(recipe, data, worker)
            objective, network = setting.objective, setting.objective.network
            assert setting.examples.prior == 3 and len(list(objective.parameters())) == len(list(network.parameters()))
            for name, parameter in network.named_parameters():
                nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
            batch = next(
                iter(ExamplesFeed(setting.examples, setting.predictor.fields, setting.recipe, worker).epoch(2))
            )
            assert batch.rows == 4 // count
            objective(*objective.inputs(batch)).backward()
            for name, parameter in network.named_parameters():
                found[name] = found.get(name, torch.zeros(())) + parameter.grad / count
        gradients.append(found)
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() <= 1e-5 * gradient.abs().max() + 1e-9, name


def base_unet(recipe: Lora) -> Any:
    return toy_unet("sdxl" if recipe.model.endswith("sdxl") else "sd")


def widths(recipe: Lora) -> dict[str, tuple[int, int]]:
    return adaptable_layers(base_unet(recipe))


def relaid(recipe: Lora, out: Path, folder: Path, layout: Any) -> Path:
    """The file of a training in a layout."""
    unet, layers = base_unet(recipe), read_adapter("style", str(out), widths(recipe)).layers
    convolutions = frozenset(name for name in layers if isinstance(unet.get_submodule(name), nn.Conv2d))
    save_adapter(open_store(str(folder)), layers, layout, {}, convolutions)
    source, file = adapter_file(str(folder))
    return source.fetch([file]) / file


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_layout_holds_what_was_trained(trained: Any, tmp_path: Path, layout: Any) -> None:
    """alpha over rank is in it, for whoever reads alpha and whoever does not."""
    recipe, out = trained
    kept, own = load_checkpoint(open_store(str(out)), 3).weights, read_adapter("style", str(out), widths(recipe)).layers
    file = relaid(recipe, out, tmp_path, layout)
    again = read_adapter("style", str(file), widths(recipe)).layers
    assert again.keys() == own.keys()
    for name, (down, up) in again.items():
        key = name.replace(".", "/")
        assert torch.equal(down, kept[f"down.{key}"]) and torch.equal(up, 4.0 / 2 * kept[f"up.{key}"])
    tensors = load_file(file)
    alphas = [tensor.item() for key, tensor in tensors.items() if key.endswith(".alpha")]
    assert alphas == ([2.0] * len(own) if layout == "kohya" else [])
    four = [name for name in own if base_unet(recipe).get_submodule(name).weight.ndim == 4]
    assert sum(tensor.ndim == 4 for tensor in tensors.values()) == 2 * len(four)


def test_generate_takes_the_folder_and_refuses_it_for_another_base(trained: Any, toy_sd: str, tmp_path: Path) -> None:
    recipe, out = trained
    kind = recipe.model.rpartition("/")[2]
    row = {"task": "text_to_image", "prompt": "a dog", "steps": 2, "seed": 3}
    adapted = open_model(recipe.model, adapters={"style": str(out)})
    plain, styled = darkroom.sample(adapted, [row, row | {"adapters": [{"adapter": "style"}]}])
    assert np.array(plain).tobytes() != np.array(styled).tobytes()
    other = {"sd": "inpaint", "sdxl": "sd"}[kind]
    with pytest.raises(
        ModelError, match=f"was trained on {kind} of the revision .*, and this is {other} of .*; to try"
    ):
        open_model(f"{toy_sd}/{other}", adapters={"style": str(out)})
    with pytest.raises(ModelError, match="is an adapter: give it with --model .* --adapter NAME="):
        open_model(str(out))


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_the_pictures_that_diffusers_makes_with_it(trained: Any, tmp_path: Path, layout: Any) -> None:
    """By diffusers' own loader, which wants peft; see the test of folded layers for where that is not there."""
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    recipe, out = trained
    kind = StableDiffusionXLPipeline if recipe.model.endswith("sdxl") else StableDiffusionPipeline
    expected = merged(open_model(recipe.model), read_adapter("style", str(out), widths(recipe)).layers, 0.7)
    pipe = kind.from_pretrained(recipe.model)
    inputs = asked(pipe.unet)
    with torch.no_grad():
        before = pipe.unet(**inputs).sample
        pipe.load_lora_weights(str(relaid(recipe, out, tmp_path, layout)), adapter_name="style")
        pipe.set_adapters(["style"], [0.7])
        theirs, ours = pipe.unet(**inputs).sample, expected(**inputs).sample
    assert (theirs - ours).abs().max() <= 1e-5 * ours.abs().max()
    assert (theirs - before).abs().max() > 1e-3 * before.abs().max()


def merged(model: Any, layers: Any, scale: float) -> Any:
    """The base's UNet with the additions in its own weights."""
    unet = model.predictor(1, torch.device("cpu")).unet
    for name, (down, up) in layers.items():
        weight = unet.get_submodule(name).weight
        weight.data += scale * (up @ down).reshape(weight.shape)
    return unet


def test_variants_are_crops_and_their_mirror_images_and_say_where_they_were() -> None:
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    recipe = Lora(resolution=8, flip=True)
    (middle, sizes), (mirrored, its) = _variants(pixels, recipe, 0)
    assert np.array_equal(middle, pixels[:, 2:10]) and sizes == (8, 12, 0, 2, 8, 8)
    assert np.array_equal(mirrored, pixels[:, 2:10][:, ::-1]) and its == (8, 12, 0, 2, 8, 8)
    crops = list(_variants(pixels, replace(recipe, crops=5), 0))
    assert len(crops) == 10 and len({size[3] for _, size in crops}) > 2
    for (crop, size), (flipped, other) in zip(crops[::2], crops[1::2], strict=True):
        assert np.array_equal(crop, pixels[:, size[3] : size[3] + 8]) and np.array_equal(flipped, crop[:, ::-1])
        assert other[3] == 12 - 8 - size[3], "as on the mirror image of the whole picture"
    small = next(iter(_variants(pixels, replace(recipe, resolution=16), 0)))
    assert small[0].shape == (16, 16, 3) and small[1] == (8, 12, 0, 4, 16, 16)


def test_min_snr_weights() -> None:
    """Of SNR 0.5 and 20 (alpha_bar 1/3 and 20/21): min(SNR, 5) / SNR, / (SNR + 1), / 1."""
    alphas = torch.tensor([20 / 21, 1 / 3], dtype=torch.float64)
    expected = {"epsilon": [0.25, 1.0], "v": [5 / 21, 1 / 3], "x0": [5.0, 0.5]}
    for prediction, weights in expected.items():
        found = _snr_weights(Diffusion(alphas, prediction=prediction), 5.0)
        assert torch.allclose(found, torch.tensor(weights))
    assert _snr_weights(Diffusion(alphas), 0.0).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("schedule", "rates"), [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.5]), ("cosine", [0.5, 1, 1, 0.5])]
)
def test_schedules(schedule: Any, rates: list[float]) -> None:
    recipe = Lora(learning_rate=1.0, warmup=2, schedule=schedule)
    assert [recipe.rate(step, 4) for step in range(4)] == pytest.approx(rates)


def test_the_objective_sees_what_the_process_says(toy_sd: str, data: str) -> None:
    """A base that knew the noise would have no loss: the errors are those of its own prediction."""
    recipe = Lora(model=f"{toy_sd}/sd", batch=2).settled()
    setting = _prepare(recipe, data, ALONE)
    objective: AdapterDiffusion = setting.objective
    batch = next(iter(ExamplesFeed(setting.examples, setting.predictor.fields, setting.recipe, ALONE).epoch(1)))
    z0, t, epsilon, weights, *told = objective.inputs(batch)
    z_t = objective.process.noise(z0, t, epsilon)
    with torch.no_grad():
        predicted = setting.predictor.unet(z_t, t, encoder_hidden_states=told[0]).sample
        expected = (predicted - epsilon).square().mean()
        assert objective(z0, t, epsilon, weights, *told).item() == pytest.approx(expected.item(), rel=1e-5)
    assert weights.tolist() == [1, 1] and z0.std().item() < 10


def test_it_says_how_far_it_is_before_the_first_step(toy_sd: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is silent for an hour is taken for a dead one."""
    monkeypatch.setattr(lora_examples, "SAY_EVERY", -1.0)
    lines: list[str] = []
    recipe = Lora(model=f"{toy_sd}/sd", prior=9, prior_prompts="a thing|a dog", validation_steps=1).settled()
    _prepare(recipe, data, ALONE, lines.append)
    told = [line.partition("  ")[0] for line in lines]
    # Three captions and the prompts of the base's pictures; with what guidance asks beside them, and nothing at all.
    assert {"2 of 5 captions read", "8 of 9 pictures of the base drawn", "13 of 14 pictures encoded"} <= {*told}
    assert any(line.endswith(" captions encoded") for line in told)


def test_places_of_captions_are_found_in_linear_time() -> None:
    asked = 0

    class Counting(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal asked
            asked += 1
            return str.__eq__(self, other)

    keys = [Counting(number) for number in range(300)]
    order, places = _numbered([*keys, *keys])
    assert order == [*keys, NOTHING] and places.tolist() == [*range(300), *range(300)]
    assert asked < 20 * 300


def test_the_loss_of_an_adapter_wants_no_more_pictures_than_it_is_measured_on(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = trained
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (33, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n:02}.png,number {n}\n" for n in range(40)))
    ingest("captions", str(tmp_path), str(tmp_path / "many"))
    setting = _prepare(recipe, str(tmp_path / "many"), ALONE)
    setting.objective.network.load_folded(read_adapter("style", str(out), widths(recipe)).layers)
    opened: list[str] = []
    decode = lora_examples.decode
    monkeypatch.setattr(lora_examples, "decode", lambda data, name: opened.append(name) or decode(data, name))
    found = adapter_loss(recipe, str(out), str(tmp_path / "many"))
    assert found == fixed_loss(setting.objective, setting.examples), "the very pictures, with the very crops"
    assert len(opened) == FIXED_PICTURES


def test_the_loss_that_is_shown_does_not_compile_the_unet_for_a_batch_of_its_own(trained: Any, data: str) -> None:
    objective = (setting := _prepare(trained[0], data, ALONE)).objective
    found, compiles = fixed_loss(objective, setting.examples), []
    objective.backend = lambda module, inputs: compiles.append(1) or module.forward
    objective.compile_core(True)
    assert fixed_loss(objective, setting.examples) == found and not compiles


def test_neither_the_loss_that_is_shown_nor_pictures_take_more_memory_than_small_batches(
    trained: Any, tmp_path: Path
) -> None:
    """SDXL at 1024 px with sixteen pictures at once takes 18 GB, where a batch of one is trained in half of that."""
    recipe, _ = trained
    for number in range(9):
        Image.fromarray(np.full((32, 32, 3), 28 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n}.png,number {n}\n" for n in range(9)))
    ingest("captions", str(tmp_path), str(tmp_path / "nine"))
    setting, room = _prepare(recipe, str(tmp_path / "nine"), ALONE), 4

    def short(unet: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if len(inputs[0] if inputs else named["sample"]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    wanted = [list(setting.wishes.draw(setting.predictor, dict(setting.texts)))[0].shape]
    setting.predictor.unet.register_forward_pre_hook(short, with_kwargs=True)
    assert fixed_loss(setting.objective, setting.examples) > 0
    assert [picture.shape for picture in setting.wishes.draw(setting.predictor, dict(setting.texts))] == wanted * 2
