"""The report of a run: RUN/report/index.html, which opens from disk, with its tiles and contact sheets beside it."""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from darkroom.report.captions import prompt_of, sentence, settings, usual
from darkroom.report.figures import Panel, panels
from darkroom.report.pictures import Pictures
from darkroom.report.rows import LISTED_FAILURES, PER_TASK, Selection, Shown, select
from darkroom.report.sheets import Cell, caption_font, draw_sheet, edge, fitted, tile
from darkroom.report.templates import render
from darkroom.storage import Ledger, NotFound, Store, open_store

LARGEST_TILE = 256  # pixels; larger pictures are shrunk, the page shows at most 128
DRAWN_AT_ONCE = 16
NARROWEST = 150  # pixels of the page, so that a caption below one picture has room
TELLING = ("start", "strength", "guidance")  # parameters that a contact sheet has room for
TASKS = {
    "text_to_image": ("Text to image", "From noise alone, under one prompt."),
    "image_to_image": (
        "Image to image",
        "A picture noised part of the way and developed again: the later the start, the more of the source remains.",
    ),
    "inpaint": ("Inpainting", "Where the mask is white the picture is painted anew, the rest is kept."),
    "anagram": ("Anagrams", "One picture; each view of it answers to a prompt of its own."),
    "hybrid": ("Hybrids", "One picture; each part of it answers to a prompt of its own."),
    "upscale": ("Upscaling", "A small picture made larger by the upper stages alone."),
}


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


def write_report(run_uri: str, per_task: int = PER_TASK) -> str:
    """Draws a run's pictures into RUN/report; a sentence that says where they are.

    Of each task at most `per_task` rows are drawn, and memory holds no others. NotFound if there is no run; a picture
    that is gone or damaged is a note on the page.
    """
    store = open_store(run_uri)
    run = json.loads(store.read("run.json"))
    selection = select(Ledger(store), per_task)
    pictures, desk = Pictures(store), _Desk(store)
    sections = [_section(task, selection, pictures, desk) for task in TASKS if task in selection.groups]
    desk.write("index.html", _html(run, _summary(store), selection, sections).encode())
    desk.sweep()
    return f"{selection.rows:,} rows, the report is at {store.uri('report/index.html')}"


class _Desk:
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


def _section(task: str, selection: Selection, pictures: Pictures, desk: _Desk) -> dict[str, Any]:
    """What the page says of one task, its contact sheet and tiles written."""
    with ThreadPoolExecutor(DRAWN_AT_ONCE, thread_name_prefix="report") as pool:
        figures = list(pool.map(lambda group: _figure(task, group, pictures, desk), selection.groups[task]))
    common = usual([figure.said for figure in figures])
    title, about = TASKS[task]
    good, shown = selection.counts[task]["ok"], selection.shown(task)
    cells = [_captioned(figure, common) for figure in figures if figure.cell is not None]
    sheet = ""
    if cells:
        sheet = f"sheets/{task}.png"
        desk.write(sheet, draw_sheet(title, f"{shown:,} of {good:,} · {sentence(common)}", cells))
    return {
        "task": task,
        "title": title,
        "about": about,
        "good": good,
        "shown": shown,
        "common": sentence(common),
        "sheet": sheet,
        "figures": [_on_page(figure, common) for figure in figures],
    }


def _figure(task: str, group: list[Shown], pictures: Pictures, desk: _Desk) -> Figure:
    parameters = group[0].parameters
    prompt = "" if task in ("anagram", "hybrid") else prompt_of(parameters)
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
    """The figure on the sheet: prompt in short, seed, and of the parameters those that vary."""
    assert figure.cell is not None
    font = caption_font()
    prompt = fitted(figure.prompt, figure.cell.width, 2, font) if figure.prompt else []
    varying = _varying(figure, common)
    said = {name: varying[name] for name in TELLING if name in varying}
    note = sentence({"seed": str(figure.rows[0].row["seed"]), **said}, ", ")
    return replace(figure.cell, caption=prompt, note=fitted(note, figure.cell.width, 2, font))


def _varying(figure: Figure, common: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in figure.said.items() if common.get(name) != value}


def _on_page(figure: Figure, common: dict[str, str]) -> dict[str, Any]:
    """What the template shows of a figure."""
    first = figure.rows[0].row
    single = len(figure.rows) == 1
    named = first["id"] != first["key"]
    return {
        "id": first["id"] if single and named else "",
        "ids": " ".join(shown.row["id"] for shown in figure.rows),
        "all": sentence(figure.said),
        "prompt": figure.prompt,
        "said": sentence({"seed": str(first["seed"]), **_varying(figure, common)}),
        "problem": figure.problem,
        "size": figure.size,
        "width": max(NARROWEST, (figure.size + 8) * len(figure.panels) - 8),
        "panels": figure.panels,
    }


def _summary(store: Store) -> dict[str, Any]:
    """What the job wrote last; {} for a run that is not finished."""
    try:
        return json.loads(store.read("summary.json"))
    except NotFound:
        return {}


def _html(run: dict[str, Any], summary: dict[str, Any], selection: Selection, sections: list[dict[str, Any]]) -> str:
    manifest = run["manifest"]["uri"]
    return render(
        "page.html",
        manifest=PurePosixPath(manifest).name,
        facts=_facts(run, summary, selection),
        counts=[(title, selection.counts[task]) for task, (title, _) in TASKS.items() if task in selection.counts],
        rows=selection.rows,
        failures=selection.failures,
        failed=selection.failed,
        listed=LISTED_FAILURES,
        sections=sections,
    )


def _facts(run: dict[str, Any], summary: dict[str, Any], selection: Selection) -> list[tuple[str, str]]:
    facts = [
        ("manifest", run["manifest"]["uri"]),
        ("model", run["model"]["name"]),
        ("revision", run["model"]["revision"]),
        ("made", _moment(run["created_at"])),
    ]
    if not summary:
        return [*facts, ("state", "not finished: the job has written no summary yet")]
    return [
        *facts,
        ("time", f"{summary['seconds']:,.1f} seconds"),
        ("speed", f"{summary['images_per_second']:,.2f} images per second"),
        ("evaluations", f"{summary['evaluations']:,}"),
    ]


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%-d %B %Y, %H:%M %Z")
