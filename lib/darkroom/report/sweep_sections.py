"""A figure that is a sweep: its grids, each also as one PNG, and what guidance does where it was swept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.report.captions import clipped, flags, sentence, settings, usual
from darkroom.report.desk import Desk
from darkroom.report.grids import draw_grid, page_size
from darkroom.report.guidance import guidance_curves
from darkroom.report.pictures import Pictures
from darkroom.report.rows import Part, Shown
from darkroom.report.run_sections import DRAWN_AT_ONCE, Heading, Materials, on_page
from darkroom.report.sheets import edge, shown_size, tile
from darkroom.report.sweeps import Sweep

BLANK = 0.5  # the grey that stands for a picture that is gone


def sweep_section(heading: Heading, part: Part, found: list[Sweep], materials: Materials) -> dict[str, Any]:
    """What the page says of a figure that is these grids, its tiles, grids and curves written."""
    common, pictures, desk = usual([_said(sweep) for sweep in found]), materials.pictures, materials.desk
    drawings, table = guidance_curves(found, pictures)
    for drawing in drawings:
        desk.write(f"sheets/{heading.name}-{drawing.name}.png", drawing.png)
    curves = [
        {"src": f"sheets/{heading.name}-{drawing.name}.png", "alt": drawing.alt, "size": page_size(drawing.png)}
        for drawing in drawings
    ]
    grids = [
        _grid(f"sheets/{heading.name}-{number}.png", sweep, common, pictures, desk)
        for number, sweep in enumerate(found, 1)
    ]
    return on_page(heading, part, common, curves=curves, table=table, grids=grids)


def _said(sweep: Sweep) -> dict[str, str]:
    """The parameters that all of a grid's rows have in common."""
    said = {"seed": str(sweep.shown[0].row["seed"])} | settings(sweep.shown)
    own = {sweep.down.title, sweep.across.title}
    own |= {name.replace("_", " ") for shown in sweep.shown for name in shown.parameters if not _all_have(name, sweep)}
    return {name: value for name, value in said.items() if name not in own}


def _all_have(name: str, sweep: Sweep) -> bool:
    return all(name in shown.parameters for shown in sweep.shown)


def _grid(sheet: str, sweep: Sweep, common: dict[str, str], pictures: Pictures, desk: Desk) -> dict[str, Any]:
    def picture_of(shown: Shown) -> np.ndarray | None:
        try:
            return pictures.made(shown)
        except ValueError:
            return None

    with ThreadPoolExecutor(DRAWN_AT_ONCE, thread_name_prefix="report") as pool:
        rows = [list(pool.map(picture_of, row)) for row in sweep.rows]
    sizes = [edge(max(picture.shape[:2])) for row in rows for picture in row if picture is not None]
    size = max(sizes, default=edge(1))
    tensors = [torch.stack([_tile(picture, size) for picture in row]) for row in rows]
    across = " · ".join(filter(None, [sweep.across.title, sweep.prompt]))
    desk.write(sheet, draw_grid(tensors, sweep.down.words, sweep.across.words, size, sweep.down.title, across))
    said = {name: value for name, value in _said(sweep).items() if common.get(name) != value}
    return {
        "prompt": clipped(sweep.prompt),
        "said": clipped(sentence(said)),
        "all": clipped(" ".join(shown.row["id"] for shown in sweep.shown), 2000),
        "seeds": sorted({shown.row["seed"] for shown in sweep.shown}),
        "flags": sorted({flag for shown in sweep.shown for flag in flags(shown)}),
        "sheet": sheet,
        "down": sweep.down.title,
        "across": sweep.across.title,
        "columns": sweep.across.words,
        "rows": [
            (words, [_cell(*pair, size, desk) for pair in zip(row, drawn, strict=True)])
            for words, row, drawn in zip(sweep.down.words, sweep.rows, rows, strict=True)
        ],
    }


def _cell(shown: Shown, picture: np.ndarray | None, size: int, desk: Desk) -> dict[str, Any]:
    """src: "" where the picture is gone; size: on the page; alt: the row's id and flags."""
    links: dict[str, Any] = {"src": ""}
    if picture is not None:
        links = desk.picture(picture, shown) | {"row": desk.row(shown), "size": shown_size(picture, size)}
    return {**links, "alt": clipped(", ".join([shown.row["id"], *flags(shown)]))}


def _tile(picture: np.ndarray | None, size: int) -> Tensor:
    """float32 [3, size, size] in 0..1."""
    if picture is None:
        return torch.full((3, size, size), BLANK)
    return torch.from_numpy(np.array(tile(picture, size))).permute(2, 0, 1).float() / 255
