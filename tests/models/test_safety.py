"""The safety checker and watermark on random weights of diffusers' own classes, against IF's own pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import IFPipeline
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker, IFWatermarker
from transformers import CLIPConfig, CLIPImageProcessor

from darkroom.models.errors import ModelError
from darkroom.models.safety import FLAGS, Safety, open_safety
from toys import tiny_unet

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage's folder with all three parts. Their heads lie so that each flag is earned by half of `pictures`."""
    place = tmp_path_factory.mktemp("stage")
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 16, "patch_size": 8, "projection_dim": 8}  # fmt: skip
    checker = IFSafetyChecker(CLIPConfig(vision_config=tower))
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(place / "feature_extractor")
    pixels = CLIPImageProcessor.from_pretrained(place / "feature_extractor")(
        ((pictures() + 1) * 127.5).round().to(torch.uint8), return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        for head in (checker.p_head, checker.w_head):
            values = head(checker.vision_model(pixels).image_embeds).flatten().sort().values
            head.bias += 0.5 - values[len(values) // 2 - 1 : len(values) // 2 + 1].mean()  # as far from both as can be
    checker.save_pretrained(place / "safety_checker")
    marker = IFWatermarker()
    marker.watermark_image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (62, 62, 4))).float()
    marker.save_pretrained(place / "watermarker")
    return place


@pytest.fixture(scope="module")
def safety(folder: Path) -> Safety:
    return open_safety(folder)


def pictures(count: int = 8) -> torch.Tensor:
    """[N, 3, S, S] in [-1, 1]: coarse random blocks."""
    blocks = np.random.default_rng(0).uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32)
    return torch.from_numpy(blocks).repeat_interleave(SIZE // 8, 2).repeat_interleave(SIZE // 8, 3)


def diffusers_says(safety: Safety, images: torch.Tensor) -> tuple[np.ndarray, list[bool], list[bool]]:
    """The pictures and verdicts of an IFPipeline with this checker."""
    parts = {"tokenizer": None, "text_encoder": None, "watermarker": None, "scheduler": None}
    made = IFPipeline(
        unet=tiny_unet(8).unet, safety_checker=safety.checker, feature_extractor=safety.processor, **parts
    )
    array = (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return made.run_safety_checker(array, torch.device("cpu"), torch.float32)


def test_flags_are_those_of_the_if_pipeline_and_pictures_stay(safety):
    images = pictures()
    before = images.clone()
    found = safety.flag(images)
    blackened, nsfw, watermark = diffusers_says(safety, images)
    assert [["nsfw"] * a + ["watermark"] * b for a, b in zip(nsfw, watermark, strict=True)] == found
    assert {flag for flags in found for flag in flags} == set(FLAGS) and [] in found
    assert torch.equal(images, before) and not blackened.any(axis=(1, 2, 3)).all()


def test_a_picture_is_flagged_alike_alone_and_among_others(safety):
    images = pictures()
    assert [safety.flag(one[None])[0] for one in images] == safety.flag(images)
    assert safety.flag(images[:0]) == []


@pytest.mark.parametrize("size", [64, 256])
def test_the_watermark_is_the_if_pipelines(safety, size):
    images = torch.nn.functional.interpolate(pictures(2), size=size)
    ours = ((safety.watermark(images) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    plain = IFPipeline.numpy_to_pil((images / 2 + 0.5).permute(0, 2, 3, 1).numpy())
    before = [np.asarray(one).copy() for one in plain]
    theirs = [np.asarray(one) for one in safety.watermarker.apply_watermark(plain, size)]
    for made, wanted, bare in zip(ours, theirs, before, strict=True):
        assert np.array_equal(made, wanted)
        rows, columns = np.nonzero((made != bare).any(axis=2))
        assert rows.min() > size * 0.9 and columns.min() > size * 0.9, "only the corner is marked"


def test_a_folder_without_them_flags_and_marks_nothing(tmp_path):
    bare = open_safety(tmp_path)
    assert bare.flag(pictures(2)) == [[], []]
    assert torch.equal(bare.watermark(pictures(2)), pictures(2))


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checker_is_a_sentence(folder, tmp_path, damage):
    (tmp_path / "safety_checker").mkdir()
    whole = (folder / "safety_checker/model.safetensors").read_bytes()
    (tmp_path / "safety_checker/config.json").write_bytes((folder / "safety_checker/config.json").read_bytes())
    if damage == "cut":
        (tmp_path / "safety_checker/model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="the safety checker or watermark in .* cannot be loaded"):
        open_safety(tmp_path)
