"""Scorers: a tiny random CLIP against transformers' own processor and model, and the digits' one on painted digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from darkroom.models.digit_scorer import DigitScorer
from darkroom.models.errors import ModelError
from darkroom.models.painted_ink import COLOURS, DIGITS
from darkroom.models.scorers import Scorer, open_scorer
from darkroom.storage import LocalStore, open_store
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_digits import _blend

PROMPTS = ["a cat", "an old man by the sea", "a cat"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights as `save_pretrained` lays it down; its tokenizer knows letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer({token: number for number, token in enumerate(tokens)}, []).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(folder)
    torch.manual_seed(0)
    width = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = width | {"vocab_size": len(tokens), "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53}
    vision = width | {"image_size": 24, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Scorer:
    return open_scorer(f"clip:{clip_folder}")


def pictures(size: int, count: int = 3) -> torch.Tensor:
    """[N, 3, S, S], a little beyond [-1, 1]: coarse random blocks."""
    blocks = np.random.default_rng(0).uniform(-1.1, 1.1, (count, 3, size // 4, size // 4)).astype(np.float32)
    return torch.from_numpy(blocks).repeat_interleave(4, 2).repeat_interleave(4, 3)


def as_pil(images: torch.Tensor) -> list[Image.Image]:
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(one) for one in levels]


@pytest.mark.parametrize("size", [16, 24, 64])  # enlarged, as they are, shrunk
def test_clips_pixels_are_those_of_transformers_on_pil(clip, clip_folder, size):
    theirs = CLIPImageProcessorPil.from_pretrained(clip_folder)(as_pil(pictures(size)), return_tensors="pt")
    ours = clip.pixels(pictures(size))
    level = 1 / 255 / min(0.26862954, 0.26130258, 0.27577711)
    assert ours.shape == (3, 3, 24, 24)
    assert (ours - theirs["pixel_values"]).abs().max() <= (1.01 * level if size != 24 else 1e-6)


def test_clips_scores_are_the_cosines_of_transformers(clip, clip_folder):
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), CLIPTokenizer.from_pretrained(clip_folder)
    tokens = tokenizer(PROMPTS, padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=clip.pixels(pictures(16)), **tokens).logits_per_image
    assert clip.temperature == pytest.approx(1 / model.logit_scale.exp().item())
    found = clip(pictures(16), PROMPTS)
    assert found.shape == (3, 3) and found.dtype == torch.float32 and found.abs().max() <= 1
    assert torch.allclose(found, logits * clip.temperature, atol=1e-5)
    assert torch.equal(found[:, 0], found[:, 2]) and not torch.allclose(found[:, 0], found[:, 1], atol=1e-3)


def test_a_picture_is_scored_alike_alone_and_among_others(clip):
    images = pictures(16)
    assert torch.allclose(torch.cat([clip(one[None], PROMPTS) for one in images]), clip(images, PROMPTS), atol=1e-6)


def test_clip_in_a_bucket_is_the_same_clip(clip, clip_folder, s3_env, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in (store := LocalStore(str(clip_folder))).list():
        open_store(s3_env).write(name, store.read(name))
    assert torch.equal(open_scorer(f"clip:{s3_env}")(pictures(16), PROMPTS), clip(pictures(16), PROMPTS))


def test_in_bfloat16_scores_are_near(clip_folder, clip):
    found = open_scorer(f"clip:{clip_folder}", "cpu", "bfloat16")(pictures(16), PROMPTS)
    assert found.dtype == torch.float32 and torch.allclose(found, clip(pictures(16), PROMPTS), atol=0.05)


def test_the_revision_is_what_lies_there(clip_folder, clip, tmp_path):
    for path in clip_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert open_scorer(f"clip:{tmp_path}").revision == clip.revision and len(clip.revision) == 16
    config = json.loads((tmp_path / "preprocessor_config.json").read_text()) | {"image_mean": [0, 0, 0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert open_scorer(f"clip:{tmp_path}").revision != clip.revision


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"config.json": None}, "config.json"),
        ({"config.json": b'{"model_type": "t5"}'}, "is no CLIP: the model_type in its config.json is 't5'"),
        ({"model.safetensors": None}, "has no file model.safetensors"),
        ({"model.safetensors": b"cut"}, "cannot be loaded"),
        ({"tokenizer_config.json": None}, "has no file tokenizer_config.json"),
    ],
)
def test_a_folder_that_holds_no_clip_is_a_sentence(clip_folder, tmp_path, damage, says):
    for path in clip_folder.iterdir():
        data = damage.get(path.name, path.read_bytes())
        if data is not None:
            (tmp_path / path.name).write_bytes(data)
    with pytest.raises(ModelError, match=says):
        open_scorer(f"clip:{tmp_path}").load()


@pytest.mark.parametrize("uri", ["clip", "clip:", "digit", "digits:x", ""])
def test_an_unknown_scorer_is_a_sentence(uri):
    with pytest.raises(ModelError, match="no scorer .*: wanted digits, or clip:"):
        open_scorer(uri)


def painted(size: int, ink: str, paper: str) -> tuple[torch.Tensor, list[int]]:
    """MNIST's first 60 test digits in one colour on another, and what they are."""
    sample = load_images(sample_uri(), "test")
    grey = torch.from_numpy(sample.images[:60, :, :, 0].astype(np.float32) / 255)[:, None]
    if size != 28:
        grey = grey[:, :, 2:26, 2:26].repeat_interleave(size // 24, 2).repeat_interleave(size // 24, 3)
    colours = (torch.tensor([COLOURS[name]], dtype=torch.float32) / 127.5 - 1 for name in (ink, paper))
    return _blend(grey, *colours), sample.labels[:60].tolist()


@pytest.mark.parametrize(
    ("size", "ink", "paper"), [(24, "red", "white"), (48, "cyan", "black"), (28, "white", "black")]
)
def test_the_named_digit_in_the_named_colour_scores_highest(size, ink, paper):
    images, labels = painted(size, ink, paper)
    scorer = open_scorer("digits")
    prompts = [f"a {colour} {digit} on {paper}" for digit in DIGITS for colour in ("red", "cyan", "white", "green")]
    best = scorer(images, prompts).argmax(dim=1).tolist()
    right = [prompts[at] == f"a {ink} {DIGITS[label]} on {paper}" for at, label in zip(best, labels, strict=True)]
    assert sum(right) >= 57


def test_digit_scores_are_log_likelihoods():
    images, _ = painted(24, "red", "white")
    scorer = open_scorer("digits")
    assert torch.allclose(
        scorer(images, [f"a {digit}" for digit in DIGITS]).exp().sum(dim=1), torch.ones(60), atol=1e-5
    )
    both = scorer(images, ["a red 7", "label 7", "a seven on white"])
    assert (both[:, 0] <= both[:, 1]).all() and torch.equal(both[:, 1], both[:, 2]), "the paper has no say"


def test_a_blank_picture_is_like_every_digit():
    found = open_scorer("digits")(torch.full((1, 3, 24, 24), 0.3), ["a one", "a red two"])
    assert found.exp().tolist()[0] == pytest.approx([1 / 10, 1 / 10 / len(COLOURS)])


@pytest.mark.parametrize("prompt", ["a high quality photo", "a three and a four", "the number 12", ""])
def test_a_prompt_without_one_digit_is_complained_of(prompt):
    scorer = DigitScorer(torch.device("cpu"))
    assert "wants a prompt that names one digit" in scorer.complaint(prompt)
    with pytest.raises(ModelError, match="names one digit"):
        scorer(torch.zeros(1, 3, 24, 24), ["a one", prompt])
    assert scorer.complaint("a red 7") == ""


def test_pictures_of_another_size_are_complained_of():
    with pytest.raises(ModelError, match="24 x 24 or 48 x 48"):
        open_scorer("digits")(torch.zeros(1, 3, 64, 64), ["a one"])
