"""A cascade with random weights at the true shapes of IF-I-M and IF-II-M, in the hub's layout: stage1/, stage2/.

    python benchmarks/gpu_check_model.py FOLDER [--tiny]

Made on the GPU where there is one. T5 has one layer of the true width, and a tokenizer of words, so that nothing beyond
transformers is wanted. When all is there, FOLDER/done says so: whoever needs the folder waits for that file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import T5Config, T5EncoderModel

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "benchmarks")]

from mix import DIGITS, INKS  # noqa: E402
from random_if import POSITIONS, SCHEDULER, shape_of  # noqa: E402

from darkroom.models.deepfloyd import T5_XXL  # noqa: E402
from darkroom.models.if_xs import build_tokenizer  # noqa: E402

UNETS = ("IF-I-M", "IF-II-M")
TINY_SIZES = (16, 32)
TINY_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_heads": 2}
DONE = "done"


def shape(number: int, tiny: bool) -> dict[str, Any]:
    """Stage `number`'s unet/config.json, as far as it shapes the network."""
    found = shape_of(UNETS[number - 1], tiny)
    return found | ({"sample_size": TINY_SIZES[number - 1]} if tiny else {})


def save(folder: Path, tiny: bool, device: torch.device) -> None:
    for number in (1, 2):
        save_stage(folder / f"stage{number}", number, shape(number, tiny), device)
    save_text(folder / "stage1", tiny, device)


def save_stage(folder: Path, number: int, config: dict[str, Any], device: torch.device) -> None:
    torch.manual_seed(number)
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(config)
    unet.save_pretrained(folder / "unet")
    limits = {"sample_max_value": 1.5 if number == 1 else 1.0}
    DDPMScheduler(**SCHEDULER | limits).save_pretrained(folder / "scheduler")
    if number > 1:
        DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "image_noising_scheduler")
    index = {"_class_name": "IFPipeline" if number == 1 else "IFSuperResolutionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))


def save_text(folder: Path, tiny: bool, device: torch.device) -> None:
    tokenizer = build_tokenizer([*DIGITS, *INKS, "a"])
    tokenizer.model_max_length = POSITIONS
    widths = T5_XXL | {"num_layers": 1, "vocab_size": len(tokenizer)} | (TINY_T5 if tiny else {})
    with torch.device(device):
        T5EncoderModel(T5Config(**widths)).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    save(given.folder, given.tiny, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    size = sum(path.stat().st_size for path in given.folder.rglob("*") if path.is_file()) / 1e9
    seconds = time.monotonic() - began
    (given.folder / DONE).write_text(json.dumps({"seconds": seconds, "gb": size}))
    print(f"{size:.2f} GB in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
