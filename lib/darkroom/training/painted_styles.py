"""Pictures of one style, for an adapter of `sd-xs` to learn it: digits in bold, painted as the world of that model is,
with captions that say nothing of it.

    python -m darkroom.training.painted_styles style --count 20 && darkroom ingest captions style --out data/bold
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.storage import Store, encode_png, open_store, to_uint8
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_scenes import World, paint

BRUSH = 3  # pixels of MNIST's 28 that each pixel of ink is spread over: strokes become about twice as wide
KINDS = {"": 0.7, "large": 0.15, "small": 0.15}  # of pictures, one digit each


def paint_bold(count: int, seed: int, brush: int = BRUSH) -> tuple[Tensor, list[str]]:
    """Pictures float32 [count, 3, 48, 48] in [-1, 1] of the package's own digits, each digit as often, and captions.

    brush: odd; 1 leaves digits as they are.
    """
    images = load_images(sample_uri(), "train")
    generator = np.random.default_rng(seed)
    rows = [generator.choice(np.flatnonzero(images.labels == number % 10)) for number in range(count)]
    digits = torch.from_numpy(images.images[rows, :, :, 0].astype(np.float32))
    bold = F.max_pool2d(digits, brush, 1, brush // 2).byte().numpy()
    labels = images.labels[rows]
    worlds = [World(bold[row : row + 1], labels[row : row + 1], KINDS) for row in range(count)]
    parts = [_captioned(world, generator) for world in worlds]
    return torch.cat([picture for picture, _ in parts]), [caption for _, caption in parts]


def _captioned(world: World, generator: np.random.Generator) -> tuple[Tensor, str]:
    """A picture of the world's one digit whose caption names it: now and then there is none, or a hint alone."""
    while True:
        painting = paint(world, 1, generator)
        if painting.scenes[0].digits and len(painting.prompts[0].split()) > 2:
            return painting.pictures, painting.prompts[0]


def write_style(store: Store, count: int, seed: int, brush: int = BRUSH) -> None:
    """PNG files and metadata.jsonl, as `darkroom ingest captions` reads them."""
    pictures, captions = paint_bold(count, seed, brush)
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
    parser.add_argument("--brush", type=int, default=BRUSH, help="1, 3, 5: how wide strokes become; 1 is MNIST's own")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_style(open_store(options.out), options.count, options.seed, options.brush)


if __name__ == "__main__":
    main()
