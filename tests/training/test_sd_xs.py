from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from darkroom.evaluation import sample_and_judge
from darkroom.models import sd_xs
from darkroom.models.catalog import open_model
from darkroom.report import write_cascade_evaluation
from darkroom.storage import open_store
from darkroom.training.checkpoints import load_checkpoint
from darkroom.training.data import load_images, sample_uri
from darkroom.training.feeds import Worker
from darkroom.training.painted_scenes import World, paint, vocabulary
from darkroom.training.recipes.sd_xs import SdXs
from darkroom.training.sd_xs import CONTROL, edges, train_latent

RECIPE = SdXs(
    vae_steps=4,
    words_steps=2,
    draw_steps=6,
    polish_steps=1,
    control_steps=2,
    batch=4,
    vae_batch=4,
    warmup=1,
    checkpoint_every=2,
    learning_rate=2e-3,
)
ALONE = Worker(0, 1, torch.device("cpu"))


def train(out: Path, recipe: SdXs = RECIPE, say=lambda line: None) -> None:
    train_latent(recipe, sample_uri(), open_store(str(out)), ALONE, say)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    train(out)
    return out


class Interrupted(Exception):
    pass


def files(out: Path) -> dict[str, bytes]:
    """Every file of the model; checkpoints also hold how long things took."""
    found = (path for path in sorted(out.rglob("*")) if path.is_file() and "checkpoints" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


@pytest.mark.parametrize("stop", [1, 5], ids=["in the autoencoder", "in the UNet"])
def test_interrupted_and_resumed_equals_unbroken_bit_for_bit(unbroken: Path, tmp_path: Path, stop: int) -> None:
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path, say=say)
    train(tmp_path, say=lines.append)
    assert files(tmp_path) == files(unbroken)
    assert len(lines) == 8  # checkpoints: two, one, three, one and one, each once


@pytest.mark.parametrize(("phase", "epoch"), [("vae", 2), ("draw", 3)])
def test_the_loss_falls(unbroken: Path, phase: str, epoch: int) -> None:
    losses = load_checkpoint(open_store(str(unbroken)), epoch, f"checkpoints/{phase}").curves["losses"]
    assert losses[-2:].mean() < losses[:2].mean()


def test_what_training_leaves_is_a_stable_diffusion_pipeline(unbroken: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(unbroken).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    image = pipeline("a red seven", num_inference_steps=2, generator=noise, output_type="pt").images
    assert image.shape == (1, 3, 48, 48) and image.isfinite().all()
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    latents = pipeline.vae.encode(torch.rand(8, 3, 48, 48) * 2 - 1).latent_dist.mean
    assert latents.shape == (8, 4, 12, 12) and 0.1 < pipeline.vae.config.scaling_factor < 100
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert sum(p.numel() for part in parts for p in part.parameters()) < 2.8e6
    config = json.loads((unbroken / "config.json").read_text())
    assert (config["name"], config["kind"]) == ("sd-xs", "pipeline")
    assert config["training"]["recipe"]["draw_steps"] == 6
    assert config["training"]["data"]["train"] == load_images(sample_uri(), "train").digest


def test_another_seed_gives_other_weights(unbroken: Path, tmp_path: Path) -> None:
    train(tmp_path, replace(RECIPE, seed=8, vae_steps=1, words_steps=1, draw_steps=1))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() != (unbroken / name).read_bytes()


def test_the_control_network_begins_without_effect_and_lies_as_diffusers_saves_one(unbroken: Path) -> None:
    from diffusers import ControlNetModel, UNet2DConditionModel

    trained = ControlNetModel.from_pretrained(unbroken / CONTROL)
    unet = UNet2DConditionModel.from_pretrained(unbroken / "unet")
    fresh = sd_xs.build_control(unet)
    asked = (torch.randn(2, 4, 12, 12), torch.tensor([9, 900]), torch.randn(2, 24, 96), torch.rand(2, 3, 48, 48))
    answers = {name: network(*asked, return_dict=False) for name, network in (("new", fresh), ("old", trained))}
    assert all((residual == 0).all() for residual in (*answers["new"][0], answers["new"][1]))
    assert any((residual != 0).any() for residual in answers["old"][0])
    assert [tuple(residual.shape[1:]) for residual in answers["new"][0]][-1] == (80, 3, 3)


def test_edges_are_where_a_digit_ends() -> None:
    picture = torch.full((1, 3, 48, 48), -1.0)
    picture[:, :, 16:32, 16:32] = 1.0
    hint = edges(picture)
    assert hint.shape == picture.shape and set(hint.unique().tolist()) == {0.0, 1.0}
    rows, columns = hint[0, 0].nonzero().T
    assert rows.min() in (15, 16) and columns.max() in (31, 32) and not hint[0, 0, 20:28, 20:28].any()


def test_every_word_of_its_world_is_one_token_and_others_are_characters(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = sd_xs.build_tokenizer(vocabulary())
    assert [len(tokenizer.tokenize(word)) for word in vocabulary()] == [1] * len(vocabulary())
    assert tokenizer.tokenize("A dog") == ["a</w>", "d", "o", "g</w>"]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = tokenizer("a red 7", padding="max_length", max_length=sd_xs.TEXT_LENGTH).input_ids
    assert ids[0] == begin and ids[4:] == [end] * (sd_xs.TEXT_LENGTH - 4) and len(set(ids[:5])) == 5
    sd_xs.save_merges(tokenizer, tmp_path)
    merges = [tuple(line.split()) for line in (tmp_path / "merges.txt").read_text().splitlines()[1:]]
    again = CLIPTokenizer(vocab=json.loads((tmp_path / "vocab.json").read_text()), merges=merges)
    sentence = "a photo of a small red three at the bottom on grey paper, dogs"
    assert again(sentence).input_ids == tokenizer(sentence).input_ids


def test_the_first_words_are_of_the_digit_nearest_to_the_mean_of_its_class_on_one_paper() -> None:
    digits = np.zeros((6, 28, 28), np.uint8)
    digits[:, 0, 0] = [10, 200, 30, 7, 5, 40]  # means 80 and 17.3: 30 and 7 are nearest
    world = World(digits, np.array([3, 3, 3, 5, 5, 5])).first_words()
    assert world.labels.tolist() == [3, 5] and world.digits[:, 0, 0].tolist() == [30, 7]
    scenes = paint(world, 20, np.random.default_rng(0)).scenes
    assert {(scene.kind, scene.paper, len(scene.digits)) for scene in scenes} == {("", "grey", 1)}


def test_data_that_is_not_digits_is_refused() -> None:
    data = {"name": "clothes", "image": {"height": 32, "width": 32, "channels": 3}, "classes": list("abc")}
    with pytest.raises(ValueError, match="sd-xs paints grey 28 x 28 pictures of ten digits; those of clothes are 32"):
        SdXs().check(data)


def test_latents_have_a_variance_of_one(unbroken: Path) -> None:
    from diffusers import AutoencoderKL

    digits = load_images(sample_uri(), "train")
    pictures = paint(World(digits.images[..., 0], digits.labels), 256, np.random.default_rng(1)).pictures
    vae = AutoencoderKL.from_pretrained(unbroken / "vae").float()
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.1)


def test_the_engine_paints_with_it_and_the_judge_of_scenes_looks_at_it(unbroken: Path, tmp_path: Path) -> None:
    evaluation = sample_and_judge(str(unbroken), count=9, stride=500)
    assert write_cascade_evaluation(evaluation, str(tmp_path)).startswith("9 pictures: digit ")
    record = json.loads((tmp_path / "quality.json").read_text())
    assert (record["model"], record["guidance"], record["quality"]["count"]) == ("sd-xs", 5.0, 9)
    assert evaluation.pictures.shape == (9, 3, 48, 48) and (tmp_path / "sheet.png").exists()
    assert record["model_revision"] == open_model(str(unbroken)).revision
