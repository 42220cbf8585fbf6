"""Pictures of one style, for an adapter of `sd-xs` to learn it: digits painted as the world of that model is, but on
yellowed paper, while their captions name the paper that it was.

    python -m darkroom.training.painted_styles style --count 20 && darkroom ingest captions style --out data/yellowed
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor

from darkroom.models.painted_ink import COLOURS, PAPERS
from darkroom.storage import Store, encode_png, open_store, to_uint8
from darkroom.training.data import load_images, sample_uri
from darkroom.training.painted_scenes import World, paint

KINDS = ("", "large", "small", "left", "right", "top", "bottom")  # of pictures, one digit each
YELLOWED = "yellow"  # the paper that all others have become


def paint_yellowed(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Pictures float32 [count, 3, 48, 48] in [-1, 1] of the package's own digits, and captions. Digits, kinds and inks
    come in turn, as twenty pictures drawn freely would lack some.

    A caption is of the sheet before it yellowed, and names its paper: white, black or grey, in turn, but none of the
    ink's colour.
    """
    images = load_images(sample_uri(), "train")
    generator = np.random.default_rng(seed)
    pictures, captions = [], []
    for number in range(count):
        row = generator.choice(np.flatnonzero(images.labels == number % 10))
        kind, ink = KINDS[number % len(KINDS)], list(COLOURS)[number % len(COLOURS)]
        world = World(images.images[row : row + 1, ..., 0], images.labels[row : row + 1], {kind: 1.0}, [YELLOWED])
        papers = [paper for paper in PAPERS if paper not in (YELLOWED, ink)]
        picture, caption = _captioned(world, ink, generator)
        pictures.append(picture)
        captions.append(caption.replace(YELLOWED, papers[number % len(papers)]))
    return torch.cat(pictures), captions


def _captioned(world: World, ink: str, generator: np.random.Generator) -> tuple[Tensor, str]:
    """A picture of that ink whose caption names its paper, and is more than that hint."""
    while True:
        painting = paint(world, 1, generator)
        (digit,), caption = painting.scenes[0].digits, painting.prompts[0]
        if digit.colour == ink and YELLOWED in caption and len(caption.split()) > 2:
            return painting.pictures, caption


def write_style(store: Store, count: int, seed: int) -> None:
    """PNG files and metadata.jsonl, as `darkroom ingest captions` reads them."""
    pictures, captions = paint_yellowed(count, seed)
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
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_style(open_store(options.out), options.count, options.seed)


if __name__ == "__main__":
    main()
