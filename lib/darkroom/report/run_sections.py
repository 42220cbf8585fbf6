"""Sections of a run's page: what is drawn of a task or a figure, its tiles and contact sheet written."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from darkroom.report.captions import details, flags, prompt_of_strip, score, sentence, settings, usual
from darkroom.report.comparisons import varying
from darkroom.report.figures import Panel, panels
from darkroom.report.pictures import Pictures
from darkroom.report.rows import Part, Shown
from darkroom.report.sheets import Cell, caption_font, draw_sheet, edge, fitted, tile
from darkroom.storage import Store

LARGEST_TILE = 256  # pixels; larger pictures are shrunk, the page shows at most 128
DRAWN_AT_ONCE = 16
NARROWEST = 150  # pixels of the page, so that a caption below one picture has room
TELLING = ("sampler", "start", "strength", "guidance")  # parameters that a contact sheet has room for


@dataclass(frozen=True)
class Figure:
    """A group of rows as drawn. said: its parameters; tiles: relative links, one for each panel; size: as shown."""

    rows: list[Shown]
    said: dict[str, str]
    prompt: str
    problem: str
    size: int
    panels: list[dict[str, Any]]
    cell: Cell | None


class Desk:
    """The folder report/, as far as this report writes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written: set[str] = set()

    def write(self, name: str, data: bytes) -> None:
        self._store.write(f"report/{name}", data)
        self._written.add(f"report/{name}")

    def tile(self, picture: np.ndarray) -> str:
        """Writes a picture, once however often it is shown; its link. Named by its content: ids may hold anything."""
        side = min(len(picture), LARGEST_TILE)
        buffer = io.BytesIO()
        image = Image.fromarray(picture) if side == len(picture) else tile(picture, side)
        image.save(buffer, "PNG")
        name = f"tiles/{hashlib.sha256(buffer.getvalue()).hexdigest()[:24]}.png"
        if f"report/{name}" not in self._written:
            self.write(name, buffer.getvalue())
        return name

    def sweep(self) -> None:
        """Takes away what an earlier report drew; last, so that its page keeps its pictures till then."""
        old = {key for folder in ("tiles/", "sheets/") for key in self._store.list(f"report/{folder}")}
        self._store.delete(*sorted(old - self._written))


@dataclass(frozen=True)
class Heading:
    """A section's name in links and files, its title and what it is about."""

    name: str
    title: str
    about: str


def section(heading: Heading, part: Part, pictures: Pictures, desk: Desk) -> dict[str, Any]:
    """What the page says of one task or figure, its contact sheet and tiles written."""
    with ThreadPoolExecutor(DRAWN_AT_ONCE, thread_name_prefix="report") as pool:
        figures = list(pool.map(lambda group: _figure(group, pictures, desk), part.groups))
    common = usual([figure.said for figure in figures])
    cells = [_captioned(figure, common) for figure in figures if figure.cell is not None]
    sheet = ""
    if cells:
        sheet = f"sheets/{heading.name}.png"
        shown = f"{part.shown:,} of {part.good:,} · {sentence(common)}"
        desk.write(sheet, draw_sheet(heading.title, shown, cells))
    drawn = [_on_page(figure, common, heading.title) for figure in figures]
    return on_page(heading, part, common, sheet=sheet, figures=drawn)


def on_page(heading: Heading, part: Part, common: dict[str, str], **drawn: Any) -> dict[str, Any]:
    """What the page's template takes for a section. common: settings of all its pictures; drawn: what it has of a
    contact sheet, figures, grids, curves and their table."""
    return {
        "name": heading.name,
        "title": heading.title,
        "about": heading.about,
        "good": part.good,
        "shown": part.shown,
        "common": sentence(common),
        "sheet": "",
        "figures": [],
        "grids": [],
        "curves": [],
        "table": None,
        **drawn,
    }


def _figure(group: list[Shown], pictures: Pictures, desk: Desk) -> Figure:
    task = group[0].parameters["task"]
    prompt = prompt_of_strip(group)
    try:
        drawn, problem = panels(task, group, pictures), ""
    except ValueError as error:
        drawn, problem = [], str(error)
    size = edge(len(drawn[-1].picture if task in ("inpaint", "upscale") else drawn[0].picture)) if drawn else 0
    linked = [_linked(panel, desk.tile(panel.picture), prompt, len(panel.picture) > size) for panel in drawn]
    # Only the small tiles stay in memory for the sheet.
    cell = _cell(drawn, size) if drawn else None
    return Figure(group, settings(group), prompt, problem, size, linked, cell)


def _linked(panel: Panel, link: str, prompt: str, smooth: bool) -> dict[str, Any]:
    alt = f"{panel.label} {panel.text or prompt}".strip()
    shown = {"label": panel.label, "detail": panel.detail, "text": panel.text}
    return {**shown, "src": link, "alt": alt, "smooth": smooth}


def _cell(drawn: list[Panel], size: int) -> Cell:
    font = caption_font()
    words = [[panel.label, *(fitted(panel.text, size, 2, font) if panel.text else [])] for panel in drawn]
    return Cell([tile(panel.picture, size) for panel in drawn], [[w for w in under if w] for under in words])


def _captioned(figure: Figure, common: dict[str, str]) -> Cell:
    """The figure on the sheet: prompt in short, seed, and of the parameters those that vary, or are other than the
    heading says."""
    assert figure.cell is not None
    font = caption_font()
    prompt = fitted(figure.prompt, figure.cell.width, 2, font) if figure.prompt else []
    varying = _varying(figure, common)
    said = {name: varying[name] for name in dict.fromkeys([*TELLING, *common]) if name in varying}
    note = sentence({**_seed(figure), **said}, ", ")
    return replace(figure.cell, caption=prompt, note=fitted(note, figure.cell.width, 2, font))


def _varying(figure: Figure, common: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in figure.said.items() if common.get(name) != value}


def _seed(figure: Figure) -> dict[str, str]:
    """Said once for all rows that have the same; else it stands below each picture."""
    return {} if "seed" in varying(figure.rows) else {"seed": str(figure.rows[0].row["seed"])}


def _on_page(figure: Figure, common: dict[str, str], above: str) -> dict[str, Any]:
    """What the template shows of a figure. above: the section's title, which an id need not say again."""
    first = figure.rows[0].row
    single = len(figure.rows) == 1
    named = first["id"] != first["key"]
    return {
        "id": first["id"].removeprefix(f"{above}/") if single and named else "",
        "ids": " ".join(shown.row["id"] for shown in figure.rows),
        "all": sentence(figure.said),
        "prompt": figure.prompt,
        "said": sentence({**_seed(figure), **_varying(figure, common)}),
        "score": sentence(score(figure.rows[0])) if single else "",
        "flags": sorted({flag for shown in figure.rows for flag in flags(shown)}),
        "details": [_detail(shown, single) for shown in figure.rows if details(shown)],
        "problem": figure.problem,
        "size": figure.size,
        "width": max(NARROWEST, (figure.size + 8) * len(figure.panels) - 8),
        "panels": figure.panels,
    }


def _detail(shown: Shown, single: bool) -> dict[str, Any]:
    """A row's record; of several rows, each with its id and its own scores and flags."""
    own = [] if single else [*flags(shown), *([sentence(score(shown))] if score(shown) else [])]
    return {"id": "" if single else shown.row["id"], "lines": [*own, *details(shown)]}
