"""Is the embedded control network followed? Scenes are painted, their edges given with a prompt that says what they
show, and what `sd-xs` draws is judged, with the network and without it.

    python benchmarks/control.py                               the digits that come with the package
    python benchmarks/control.py --data data/mnist --rows 500  test digits of an ingested data set

digits, colours, paper, place: shares of pictures by the project's judge of scenes. edges found: the share of the given
edges that lie within a pixel of one of the picture's; edges asked for: of the picture's, near a given one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "lib")]

import darkroom  # noqa: E402
from darkroom.evaluation.scenes import SceneQuality, SceneWish, judge_scenes  # noqa: E402
from darkroom.models.edges import THRESHOLDS, canny  # noqa: E402
from darkroom.storage import encode_png  # noqa: E402
from darkroom.training.data import load_images, sample_uri  # noqa: E402
from darkroom.training.painted_scenes import World, paint  # noqa: E402


def followed(data: str, count: int, scale: float = 1.0) -> dict[str, tuple[SceneQuality, float, float]]:
    """Quality, edges found and edges asked for of `count` pictures, with the control network and without."""
    digits = load_images(data, "test")
    painting = paint(World(digits.images[..., 0], digits.labels), count, np.random.default_rng(11))
    pictures = ((painting.pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    wishes = [
        SceneWish(
            scene.kind, tuple(d.digit for d in scene.digits), tuple(d.colour for d in scene.digits), scene.paper, row
        )
        for row, scene in enumerate(painting.scenes)
    ]
    model = darkroom.open_model("sd-xs", control={"canny": "sd-xs-canny"})
    with TemporaryDirectory() as folder:
        rows = [_row(wish, picture, Path(folder), scale) for wish, picture in zip(wishes, pictures, strict=True)]
        drawn = {"with the network": darkroom.sample(model, rows)}
        drawn["without"] = darkroom.sample(model, [_without(row) for row in rows])
    return {name: _measured([np.asarray(image) for image in own], pictures, wishes) for name, own in drawn.items()}


def _row(wish: SceneWish, picture: np.ndarray, folder: Path, scale: float) -> dict[str, Any]:
    path = folder / f"{wish.seed}.png"
    path.write_bytes(encode_png(np.ascontiguousarray(picture)))
    use = {"net": "canny", "image": str(path), "preprocess": "canny", "scale": scale}
    row = {"task": "text_to_image", "prompt": wish.prompt, "seed": wish.seed, "steps": 30, "guidance": 4}
    return row | {"control": [use]}


def _without(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "control"}


def _measured(drawn: list[np.ndarray], given: np.ndarray, wishes: list[SceneWish]) -> tuple[SceneQuality, float, float]:
    tensor = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 127.5 - 1
    pairs = [(_edges(picture), _edges(hint)) for picture, hint in zip(drawn, given, strict=True)]
    found = np.mean([(hint & _near(own)).sum() / max(1, hint.sum()) for own, hint in pairs])
    asked = np.mean([(own & _near(hint)).sum() / max(1, own.sum()) for own, hint in pairs])
    return judge_scenes(tensor, wishes), float(found), float(asked)


def _edges(picture: np.ndarray) -> np.ndarray:
    return canny(picture, *THRESHOLDS)[..., 0] > 0


def _near(edges: np.ndarray) -> np.ndarray:
    """Pixels within one of an edge."""
    padded = np.pad(edges, 1)
    height, width = edges.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=sample_uri(), help="an ingested data set of digits")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--scale", type=float, default=1.0)
    asked = parser.parse_args()
    print(f"{'':<18}{'digits':>8}{'colours':>9}{'paper':>8}{'place':>8}{'edges found':>13}{'edges asked for':>17}")
    for name, (quality, found, near) in followed(asked.data, asked.rows, asked.scale).items():
        shares = (quality.digit_accuracy, quality.colour_accuracy, quality.paper_accuracy, quality.place_accuracy)
        columns = zip((*shares, found, near), (8, 9, 8, 8, 13, 17), strict=True)
        print(f"{name:<18}" + "".join(f"{share:>{width}.1%}" for share, width in columns))


if __name__ == "__main__":
    main()
