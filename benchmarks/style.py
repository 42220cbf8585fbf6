"""How far does an adapter of `sd-xs` carry its style, and what does it cost? Scenes of one digit are drawn with it at
several scales, from the same seeds, and judged.

    python benchmarks/style.py models/yellowed                                       64 scenes
    python benchmarks/style.py models/yellowed --rows 200 --sheet curve.png          and a picture of it: a row a scale

yellowness: of the paper, mean. yellow: of the pictures whose prompts ask for another paper, the share on which it is
nearest to yellow. digit, colour, place and size: shares that are as asked. --no-paper: prompts leave the paper open.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib")]

import darkroom  # noqa: E402
from darkroom.evaluation.scenes import SceneQuality, SceneWish, balanced_scenes, judge_scenes  # noqa: E402
from darkroom.models.painted_ink import paper_names, yellowness  # noqa: E402

SCALES = (0.0, 0.3, 0.6, 1.0, 1.2)
SHOWN, ENLARGED = 10, 2  # pictures in a row of the sheet; pixels of it, along a side, that one of theirs becomes


@dataclass(frozen=True, eq=False)
class Measured:
    """Of one scale. pictures: uint8 [N, 48, 48, 3]."""

    pictures: np.ndarray
    yellowness: float
    yellow: float
    quality: SceneQuality


def wishes(count: int, paper: bool = True) -> list[SceneWish]:
    """Scenes of one digit, every digit and colour as often. paper: prompts name one."""
    single = [wish for wish in balanced_scenes(2 * count) if wish.kind != "pair"][:count]
    return single if paper else [replace(wish, paper="") for wish in single]


def measured(
    adapter: str, asked: Sequence[SceneWish], scales: Sequence[float], steps: int = 20, guidance: float = 5.0
) -> dict[float, Measured]:
    """By scale. adapter: of `sd-xs`, a folder or a file."""
    model = darkroom.open_model("sd-xs", adapters={"style": adapter})
    row = {"task": "text_to_image", "steps": steps, "guidance": guidance}
    rows = [row | {"prompt": wish.prompt, "seed": wish.seed} for wish in asked]
    others = [number for number, wish in enumerate(asked) if wish.paper != "yellow"]
    found = {}
    for scale in scales:
        styled = [row | {"adapters": [{"adapter": "style", "scale": scale}]} for row in rows]
        drawn = np.stack([np.asarray(image) for image in darkroom.sample(model, styled)])
        pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1
        names = paper_names(pictures)
        found[scale] = Measured(
            drawn,
            yellowness(pictures).mean().item(),
            sum(names[number] == "yellow" for number in others) / len(others),
            judge_scenes(pictures, asked),
        )
    return found


def sheet(found: dict[float, Measured]) -> Image.Image:
    """A row a scale; in a column the same prompt and seed. Columns are spread evenly over the scenes."""
    rows = []
    for own in found.values():
        chosen = np.linspace(0, len(own.pictures) - 1, SHOWN).round().astype(int)
        rows.append(np.concatenate(list(own.pictures[chosen]), axis=1))
    image = Image.fromarray(np.concatenate(rows))
    return image.resize((ENLARGED * image.width, ENLARGED * image.height), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="sd-xs-yellowed, a folder that `darkroom train lora` made, or a file")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--no-paper", action="store_true")
    parser.add_argument("--sheet", help="a PNG file")
    asked = parser.parse_args()
    found = measured(asked.adapter, wishes(asked.rows, not asked.no_paper), asked.scales)
    print(f"{'scale':<7}{'yellowness':>12}{'yellow':>8}{'digit':>8}{'colour':>8}{'place and size':>16}")
    for scale, own in found.items():
        as_asked = own.quality.digit_accuracy, own.quality.colour_accuracy, own.quality.place_accuracy
        shares = zip((own.yellow, *as_asked), (8, 8, 8, 16), strict=True)
        print(f"{scale:<7g}{own.yellowness:>12.3f}" + "".join(f"{share:>{width}.1%}" for share, width in shares))
    if asked.sheet:
        sheet(found).save(asked.sheet, optimize=True)


if __name__ == "__main__":
    main()
