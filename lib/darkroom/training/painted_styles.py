"""Pictures of one style, for an adapter of `sd-xs` to learn it: digits that all lean to the right alike, painted as the
world of that model is, with captions that say nothing of it.

    python -m darkroom.training.painted_styles style --count 20 && darkroom ingest captions style --out data/style
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.models.painted_ink import lean
from darkroom.storage import Store, encode_png, open_store, to_uint8
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_scenes import World, paint

LEAN = 0.5  # pixels to the right for each upwards, 27 degrees; MNIST's own: 0.0, with a deviation of 0.24
MOST = 1.2  # that a digit is sheared by: beyond, its frame cuts it
KINDS = {"": 0.7, "large": 0.15, "small": 0.15}  # of pictures, one digit each


def leaning(digits: Tensor, by: float = LEAN) -> Tensor:
    """Digits float32 [N, 1, 28, 28] in 0..1, sheared about their middles so that each leans by that, see `lean`."""
    shear = (by - lean(digits)).clamp(-MOST, MOST)
    theta = torch.eye(2, 3).repeat(len(digits), 1, 1)
    theta[:, 0, 1] = shear  # of where each pixel is taken from; y points down
    grid = F.affine_grid(theta, list(digits.shape), align_corners=False)
    return F.grid_sample(digits, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def paint_leaning(count: int, seed: int, by: float = LEAN) -> tuple[Tensor, list[str]]:
    """Pictures float32 [count, 3, 48, 48] in [-1, 1] of the package's own digits, each digit as often, and captions."""
    images = load_images(sample_uri(), "train")
    generator = np.random.default_rng(seed)
    rows = [generator.choice(np.flatnonzero(images.labels == number % 10)) for number in range(count)]
    chosen = torch.from_numpy(images.images[rows, :, :, 0].astype(np.float32) / 255)[:, None]
    sheared = (leaning(chosen, by)[:, 0] * 255).round().byte().numpy()
    parts = [
        _captioned(World(sheared[row][None], images.labels[rows[row]][None], KINDS), generator) for row in range(count)
    ]
    return torch.cat([picture for picture, _ in parts]), [caption for _, caption in parts]


def _captioned(world: World, generator: np.random.Generator) -> tuple[Tensor, str]:
    """A picture of the world's one digit whose caption names it: now and then there is none, or a hint alone."""
    while True:
        painting = paint(world, 1, generator)
        if painting.scenes[0].digits and len(painting.prompts[0].split()) > 2:
            return painting.pictures, painting.prompts[0]


def write_style(store: Store, count: int, seed: int, by: float = LEAN) -> None:
    """PNG files and metadata.jsonl, as `darkroom ingest captions` reads them."""
    pictures, captions = paint_leaning(count, seed, by)
    lines = []
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        name = f"{number:03d}.png"
        store.write(name, encode_png(to_uint8(picture).permute(1, 2, 0).numpy()))
        lines.append(json.dumps({"file_name": name, "text": caption}))
    store.write("metadata.jsonl", "\n".join(lines).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="a folder or s3:// uri for pictures and metadata.jsonl")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--lean", type=float, default=LEAN, help="pixels to the right for each upwards")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_style(open_store(options.out), options.count, options.seed, options.lean)


if __name__ == "__main__":
    main()
